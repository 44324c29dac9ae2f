"""Fingerprints: what changes them and what does not, for values, files, rows and code."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.fingerprint import (
    code_version,
    definition_version,
    file_digest,
    fingerprint,
    folder_version,
    rows_version,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
ROWS = st.dictionaries(IDS, st.integers(0, 3).map(fingerprint), max_size=6)
NUMBERS = count()

OPERATOR = '''
"""What belongs here."""

import math

LIMIT = 3
LOW, HIGH = 0.1, 0.9
unrelated_constant = 1


def innermost(x):
    """Halve."""
    return x / 2  # a half


def helper(x):
    return innermost(x) + LIMIT


async def fetched(x):
    return x


def unrelated(x):
    return x * 7


class Base:
    shift = 1


class Operator(Base):
    """Uses helpers."""

    settings: dict[str, float] = {}

    def apply(self, x):
        return helper(x) * math.pi + self.shift + LOW

    async def wait(self):
        return await fetched(1)


def made():
    class Inner:
        value = 1

    return Inner
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes source as a new module that Python finds, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = f"fingerprinted_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        return name

    return write


@pytest.fixture
def operator_version(module, monkeypatch):
    """The version of `Operator` after an edit of its module."""

    def version(old: str = "", new: str = "") -> str:
        assert old in OPERATOR
        name = module(OPERATOR.replace(old, new, 1))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return definition_version(importlib.import_module(name).Operator)

    return version


def reordered(value, random):
    if isinstance(value, dict):
        items = list(value.items())
        random.shuffle(items)
        return {key: reordered(inner, random) for key, inner in items}
    return [reordered(inner, random) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_keys_does_not_count(value, random):
    assert fingerprint(value) == fingerprint(reordered(value, random))


@given(VALUES, VALUES)
@settings(max_examples=50, deadline=None)
def test_other_values_have_other_fingerprints(one, other):
    same_text = repr(one) == repr(other) or (isinstance(one, dict) and one == other)
    if not same_text and one != other:
        assert fingerprint(one) != fingerprint(other)


def test_the_borders_between_parts_count():
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("abc"), fingerprint(["ab", "c"])}) == 4
    assert fingerprint(1) != fingerprint("1")


def test_tuples_and_paths_count_as_lists_and_texts():
    assert fingerprint((1, 2), Path("a/b")) == fingerprint([1, 2], "a/b")


def test_the_same_in_another_process_with_another_hash_seed():
    code = "from resources.fingerprint import fingerprint; print(fingerprint({'b': [1, 2.5], 'a': 'ü'}, None))"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == fingerprint({"a": "ü", "b": [1, 2.5]}, None)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 17])
def test_a_file_is_hashed_whole(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    assert file_digest(path) == hashlib.blake2b(content[:size], digest_size=16).hexdigest()


def test_the_version_of_a_folder_names_its_files_and_what_they_hold(tmp_path):
    (tmp_path / "page.html").write_text("a")
    (tmp_path / "inner").mkdir()
    before = folder_version(tmp_path)
    assert folder_version(tmp_path) == before
    (tmp_path / "page.html").write_text("b")
    changed = folder_version(tmp_path)
    (tmp_path / "page.html").rename(tmp_path / "other.html")
    assert len({before, changed, folder_version(tmp_path)}) == 3


@given(ROWS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_version_of_rows_does_not_depend_on_their_order(rows, random):
    shuffled = list(rows.items())
    random.shuffle(shuffled)
    assert rows_version(shuffled) == rows_version(sorted(rows.items()))


@given(ROWS, ROWS)
@settings(max_examples=50, deadline=None)
def test_the_version_of_rows_names_ids_and_fingerprints(one, other):
    assert (rows_version(one.items()) == rows_version(other.items())) == (one == other)


def test_comments_docstrings_and_layout_do_not_change_code(module):
    plain = module("def f(x):\n    return x + 1\n\n\nclass A:\n    b = 2\n")
    dressed = module(
        '''
        """A docstring."""
        # a comment


        def f(
            x,
        ):
            """What f does."""
            return (x + 1)  # plus one
        class A:
            """A."""

            b = 2
        '''
    )
    assert code_version(plain) == code_version(dressed)


@pytest.mark.parametrize("edited", ["def f(x):\n    return x + 2\n", "def g(x):\n    return x + 1\n", "f = 'text'\n"])
def test_code_changes_the_version(module, edited):
    assert code_version(module("def f(x):\n    return x + 1\n")) != code_version(module(edited))


def test_a_text_that_is_no_docstring_counts(module):
    assert code_version(module("x = 1\n'one'\n")) != code_version(module("x = 1\n'two'\n"))


def test_code_is_read_without_importing_it(module):
    name = module("raise RuntimeError('imported')\n")
    assert code_version(name)
    assert name not in sys.modules


def test_the_order_of_modules_does_not_count_but_each_does(module):
    one, two, three = module("a = 1\n"), module("b = 2\n"), module("c = 3\n")
    assert code_version(one, two) == code_version(two, one)
    assert len({code_version(one), code_version(one, two), code_version(one, two, three)}) == 3


@pytest.mark.parametrize("name", ["no_such_module_anywhere", "sys", "math"])
def test_a_module_without_source_is_refused_by_name(name):
    with pytest.raises(ModuleNotFoundError, match=name):
        code_version(name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* math.pi", "* math.e"),  # its own code
        ("+ LIMIT", "- LIMIT"),  # a helper
        ("x / 2", "x / 3"),  # a helper's helper
        ("LIMIT = 3", "LIMIT = 4"),  # a constant of a helper
        ("0.1, 0.9", "0.2, 0.9"),  # one of two constants
        ("shift = 1", "shift = 2"),  # its base
        ("    return x\n", "    return -x\n"),  # a coroutine
    ],
)
def test_a_definition_changes_with_what_it_uses_in_its_module(operator_version, old, new):
    assert operator_version(old, new) != operator_version()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * 7", "x * 8"),
        ("unrelated_constant = 1", "unrelated_constant = 2"),
        ('"""Halve."""', '"""Divide by two."""'),
        ("  # a half", ""),
        ('"""What belongs here."""', ""),
    ],
)
def test_a_definition_stays_when_others_change(operator_version, old, new):
    assert operator_version(old, new) == operator_version()


def test_a_function_has_a_version_too(module):
    one, other = (
        importlib.import_module(module(f"def g(x):\n    return x\n\ndef f(x):\n    return g(x) + {n}\n"))
        for n in (1, 2)
    )
    assert definition_version(one.f) != definition_version(other.f)
    assert definition_version(one.g) == definition_version(other.g)


def test_a_definition_inside_another_changes_with_its_module(module):
    one, other = (
        importlib.import_module(module(OPERATOR.replace("value = 1", f"value = {value}"))) for value in (1, 2)
    )
    assert definition_version(one.made()) != definition_version(other.made())
