"""What the project runs with may be used beside its own Apache-2.0; docs/reliability.md says under which licences."""

from pathlib import Path

import pytest
from licences import NVIDIA, all_dependencies, direct_dependencies, licence_of
from outcomes import section

PERMISSIVE = {"Apache-2.0", "MIT", "BSD", "ISC", "PSF-2.0", "HPND", "Zlib", "0BSD", "Unlicense"}
FILE_COPYLEFT = {"MPL-2.0"}
"""Binds changes of its own files and nothing that uses them; none of it is changed or shipped here."""

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def documented():
    text = DOCUMENT.read_text(encoding="utf-8")
    first, last = section(text, "licences")
    rows = [line.strip("| ").split(" | ") for line in text[first:last].splitlines()[2:] if line.startswith("|")]
    return {name: set(licence.split(" and ")) for name, licence in rows}


@pytest.mark.parametrize("name", all_dependencies())
def test_a_licence_goes_with_apache_2(name):
    found = set(licence_of(name))
    assert found, f"{name} names no licence"
    of_the_card = {"NVIDIA"} if name.startswith(NVIDIA) else set()  # torch's CUDA build brings them, a CPU build none
    assert found <= PERMISSIVE | FILE_COPYLEFT | of_the_card


def test_the_table_of_licences_is_that_of_the_dependencies():
    rows = documented()
    assert sorted(rows) == direct_dependencies()
    for name in set(all_dependencies()) & set(rows):
        assert rows[name] & set(licence_of(name)), f"{name}: run tests/reliability/write_tables.py"
