"""The corpus: each input is used with its very values, quarantined with its reason, or refused with a clear error."""

from pathlib import Path

import outcomes
import pytest
from corpus import config_cases, file_cases, set_cases, side_cases

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def by_title(cases):
    found = {case.title: case for case in cases}
    assert len(found) == len(cases), "two cases of one title"
    return found


FILES, SETS = by_title(file_cases()), by_title(set_cases())
CONFIGS, SIDE = by_title(config_cases()), by_title(side_cases())


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """What came of every case, by the part of the document."""
    parts = outcomes.run_corpus(tmp_path_factory.mktemp("corpus"))
    return dict(zip(("files", "sets", "configs", "side"), parts, strict=True))


@pytest.mark.parametrize("title", FILES)
def test_a_file(title, tables):
    assert tables["files"][title] == outcomes.expected_of_file(FILES[title])


@pytest.mark.parametrize("title", SETS)
def test_a_set(title, tables):
    assert tables["sets"][title] == outcomes.expected_of_set(SETS[title])


@pytest.mark.parametrize("title", CONFIGS)
def test_a_config(title, tables):
    assert tables["configs"][title] == outcomes.expected_of_text(CONFIGS[title])


@pytest.mark.parametrize("title", SIDE)
def test_side_information(title, tables):
    assert tables["side"][title] == outcomes.expected_of_text(SIDE[title])


def test_the_table_of_the_document_is_the_corpus(tables):
    text = DOCUMENT.read_text(encoding="utf-8")
    first, last = outcomes.section(text, "corpus")
    assert text[first:last].strip() == outcomes.corpus_tables(list(tables.values())), (
        "run tests/reliability/write_tables.py"
    )
