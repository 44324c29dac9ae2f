"""The store: Delta tables that equal a dictionary whatever is done to them, updates that resume, files whole or not."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.fingerprint import rows_version
from resources.sample_store import COMPACT_ABOVE_FILES, SampleStore, SampleTable, StoreError

ODD_IDS = [
    "plain",
    "O'Brien",
    'say "hi"',
    "new\nline",
    "tab\t",
    "ü/漢字",
    "a b",
    "per%cent",
    "back\\slash",
    "x = 1 OR 1=1",
    "",
]
FINGERPRINTS = st.sampled_from(["f0", "f1", "f2"])
CONTENTS = st.dictionaries(st.sampled_from(ODD_IDS), FINGERPRINTS, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), CONTENTS.filter(bool)),
        st.tuples(st.just("remove"), st.sets(st.sampled_from(ODD_IDS), max_size=4)),
        st.tuples(st.just("update"), CONTENTS),
    ),
    min_size=1,
    max_size=5,
)


def frame(contents: dict[str, str], **columns) -> pl.DataFrame:
    """Rows with a value that depends on the fingerprint, and a list."""
    values = {
        "value": [float(fingerprint[1:]) for fingerprint in contents.values()],
        "numbers": [[1, 2] for _ in contents],
        **columns,
    }
    schema = {"sample_id": pl.String, "fingerprint": pl.String, "value": pl.Float64, "numbers": pl.List(pl.Int64)}
    keys = {"sample_id": list(contents), "fingerprint": list(contents.values())}
    return pl.DataFrame({**keys, **values}, schema_overrides=schema)


def wanted(contents: dict[str, str]) -> pl.DataFrame:
    schema = {"sample_id": pl.String, "fingerprint": pl.String}
    return pl.DataFrame(list(contents.items()), schema=schema, orient="row")


def batches(contents: dict[str, str], asked: list[list[str]], size: int = 2, **columns):
    """A `compute` that notes what it is asked for."""

    def compute(ids):
        asked.append(list(ids))
        for start in range(0, len(ids), size):
            yield frame({name: contents[name] for name in ids[start : start + size]}, **columns)

    return compute


def contents_of(table: SampleTable) -> dict[str, str]:
    return dict(table.keys().iter_rows())


@pytest.fixture
def table(tmp_path):
    return SampleTable(str(tmp_path / "table"))


@given(STEPS)
@settings(max_examples=12, deadline=None)
def test_a_table_equals_a_dictionary(steps):
    folder = tempfile.mkdtemp()
    try:
        table, model = SampleTable(f"{folder}/t"), dict[str, str]()
        table.upsert(frame({}))
        for name, argument in steps:
            if name == "upsert":
                table.upsert(frame(argument))
                model |= argument
            elif name == "remove":
                table.remove(sorted(argument))
                model = {key: value for key, value in model.items() if key not in argument}
            else:
                change = table.diff(wanted(argument))
                both = model.keys() & argument.keys()
                assert change.new == sorted(argument.keys() - model.keys())
                assert change.removed == sorted(model.keys() - argument.keys())
                assert change.changed == sorted(key for key in both if model[key] != argument[key])
                assert change.kept == sum(model[key] == argument[key] for key in both)
                table.update(wanted(argument), batches(argument, []))
                model = dict(argument)
            assert contents_of(table) == model
            assert table.version() == rows_version(model.items())
        rows = table.read()
        assert rows["sample_id"].to_list() == sorted(model)
        assert rows["value"].to_list() == [float(model[key][1:]) for key in sorted(model)]
    finally:
        shutil.rmtree(folder)


def test_the_parts_of_a_change_and_their_counts(table):
    table.upsert(frame({"kept": "f0", "changed": "f0", "gone": "f0"}))
    change = table.diff(wanted({"kept": "f0", "changed": "f1", "new": "f0"}))
    assert (change.new, change.changed, change.removed, change.kept) == (["new"], ["changed"], ["gone"], 1)
    assert change.stale == ["new", "changed"]
    assert change.counts() == {"new": 1, "changed": 1, "removed": 1, "kept": 1}


def test_odd_ids_come_back_as_they_went_in(table):
    table.upsert(frame(dict.fromkeys(ODD_IDS, "f0")))
    table.upsert(frame(dict.fromkeys(ODD_IDS[:4], "f1")))
    table.remove(["x = 1 OR 1=1", "O'Brien"])
    assert contents_of(table) == {
        name: "f1" if name in ODD_IDS[:4] else "f0" for name in ODD_IDS if name not in ("x = 1 OR 1=1", "O'Brien")
    }


def test_there_is_no_table_before_the_first_row(table):
    assert not table.exists
    assert table.keys().is_empty()
    assert table.version() == rows_version([])
    with pytest.raises(StoreError, match="domain-gap run"):
        table.read()


def test_read_takes_some_columns_and_always_the_id(table):
    table.upsert(frame({"b": "f1", "a": "f0"}))
    assert table.read(["value"]).to_dicts() == [{"sample_id": "a", "value": 0.0}, {"sample_id": "b", "value": 1.0}]
    assert table.read(["sample_id"]).columns == ["sample_id"]


def test_another_id_column(tmp_path):
    table = SampleTable(str(tmp_path / "t"), id_column="name")
    rows = pl.DataFrame({"name": ["a", "b"], "fingerprint": ["f0", "f0"]})
    table.upsert(rows)
    table.upsert(rows.head(1).with_columns(fingerprint=pl.lit("f1")))
    table.remove(["b"])
    assert table.read().to_dicts() == [{"name": "a", "fingerprint": "f1"}]


def test_columns_in_another_order_land_under_their_names(table):
    table.upsert(frame({"a": "f0"}))
    rows = frame({"b": "f1"})
    table.upsert(rows.select(reversed(rows.columns)))
    assert table.read()["value"].to_list() == [0.0, 1.0]
    assert contents_of(table) == {"a": "f0", "b": "f1"}


def test_update_computes_only_what_is_stale(table):
    first = {"a": "f0", "b": "f0", "c": "f0"}
    table.update(wanted(first), batches(first, []))
    second, asked = {"a": "f0", "b": "f1", "d": "f2"}, []
    change = table.update(wanted(second), batches(second, asked))
    assert asked == [["d", "b"]]
    assert change.counts() == {"new": 1, "changed": 1, "removed": 1, "kept": 1}
    assert contents_of(table) == second
    table.update(wanted(second), batches(second, asked))
    assert len(asked) == 1  # nothing was asked for again


def test_a_killed_update_resumes_at_its_last_batch(table):
    contents = {f"s{i}": "f0" for i in range(6)}

    def killed(ids):
        yield frame({name: contents[name] for name in ids[:2]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.update(wanted(contents), killed)
    assert contents_of(table) == {"s0": "f0", "s1": "f0"}
    asked: list[list[str]] = []
    table.update(wanted(contents), batches(contents, asked))
    assert asked == [["s2", "s3", "s4", "s5"]]
    assert contents_of(table) == contents


def test_rows_are_removed_only_after_the_new_ones_are_in(table):
    table.upsert(frame({"old": "f0"}))

    def broken(ids):
        raise RuntimeError
        yield

    with pytest.raises(RuntimeError):
        table.update(wanted({"new": "f0"}), broken)
    assert contents_of(table) == {"old": "f0"}


def test_another_schema_replaces_the_table_and_what_that_dropped_is_computed(table):
    before = {"a": "f0", "b": "f0", "c": "f0", "gone": "f0"}
    table.update(wanted(before), batches(before, []))
    after, asked = {"a": "f0", "b": "f1", "c": "f0"}, []

    def wider(ids):
        asked.append(list(ids))
        for name in ids:
            yield frame({name: after[name]}, extra=[1.5])

    table.update(wanted(after), wider)
    assert asked == [["b"], ["a", "c"]]
    assert contents_of(table) == after
    assert table.read()["extra"].to_list() == [1.5] * 3


@pytest.mark.parametrize("kind", [pl.UInt8, pl.UInt32, pl.Datetime("us"), pl.Boolean, pl.List(pl.UInt16)])
def test_a_type_that_delta_keeps_as_another_does_not_drop_rows(table, kind):
    rows = frame({"a": "f0", "b": "f0", "c": "f0"})
    rows = rows.with_columns(odd=pl.Series([[1], [2], [3]] if kind == pl.List else [1, 2, 3]).cast(kind))
    for i in range(3):
        table.upsert(rows.slice(i, 1))
    assert list(contents_of(table)) == ["a", "b", "c"]


def test_an_update_whose_batches_drop_one_another_ends_with_an_error(table):
    def compute(ids):
        for number, name in enumerate(ids):
            yield frame({name: "f0"}, **{f"only_{number}": [1]})

    with pytest.raises(StoreError, match="not computed"):
        table.update(wanted(dict.fromkeys(["a", "b", "c"], "f0")), compute)


def test_rows_that_were_asked_for_and_not_computed_are_named(table):
    with pytest.raises(StoreError, match="2 rows were asked for and not computed, first 'a'"):
        table.update(wanted({"a": "f0", "b": "f0"}), lambda _ids: iter(()))


def test_the_version_does_not_depend_on_the_order_of_commits(tmp_path):
    one, other = (SampleTable(str(tmp_path / name)) for name in ("one", "other"))
    one.upsert(frame({"a": "f0", "b": "f1"}))
    other.upsert(frame({"b": "f0"}))
    other.upsert(frame({"a": "f0"}))
    assert one.version() != other.version()
    other.upsert(frame({"b": "f1"}))
    assert one.version() == other.version()


def test_many_batches_are_merged_into_few_files(table):
    contents = {f"s{i:03d}": "f0" for i in range(COMPACT_ABOVE_FILES + 2)}
    table.update(wanted(contents), batches(contents, [], size=1))
    from deltalake import DeltaTable

    assert len(DeltaTable(table.url).file_uris()) == 1
    assert contents_of(table) == contents


def test_every_change_is_one_commit(table):
    from deltalake import DeltaTable

    table.upsert(frame({"a": "f0", "b": "f0"}))
    table.upsert(frame({"b": "f1", "c": "f0"}))
    table.remove(["a"])
    assert DeltaTable(table.url).version() == 2
    assert SampleTable(table.url).read()["sample_id"].to_list() == ["b", "c"]


def test_a_store_keeps_tables_by_asset(tmp_path):
    store = SampleStore(f"{tmp_path}/")
    store.table("source", "manifest").upsert(frame({"a": "f0"}))
    store.table("kitti", "experiments", "gamma").upsert(frame({"b": "f0"}))
    again = SampleStore(str(tmp_path))
    assert contents_of(again.table("source", "manifest")) == {"a": "f0"}
    assert contents_of(again.table("kitti", "experiments", "gamma")) == {"b": "f0"}
    assert not again.table("kitti", "manifest").exists


def test_files_are_written_and_read(tmp_path):
    store = SampleStore(str(tmp_path))
    store.write("grün", "reports", "kitti", "a.txt")
    assert Path(store.place("reports", "kitti", "a.txt")).read_text(encoding="utf-8") == "grün"
    store.write(b"\0\1", "b.bin")
    assert store.read("b.bin") == b"\0\1"
    text = store.write_json({"b": [1.5, None], "a": "ü"}, "scores", "kitti.json")
    assert store.read("scores", "kitti.json").decode() == text
    assert store.read_json("scores", "kitti.json") == {"a": "ü", "b": [1.5, None]}
    store.remove("b.bin")
    store.remove("b.bin")
    assert not store.exists("b.bin")
    assert store.exists("reports", "kitti", "a.txt")
    assert not store.exists("reports", "kitti")
    with pytest.raises(StoreError, match="domain-gap run"):
        store.read_json("scores", "nothing.json")


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_and_tables_have_the_rights_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        store = SampleStore(str(tmp_path / "store"))
        store.write("x", "a.txt")
        store.table("source", "manifest").upsert(pl.DataFrame({"sample_id": ["a"], "fingerprint": ["f"]}))
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert {path.stat().st_mode & 0o777 for path in written} == {0o666 & ~mask}


def test_a_write_that_fails_leaves_what_was_there_and_no_partial_file(tmp_path):
    store = SampleStore(str(tmp_path))
    store.write("before", "taken", "file.txt")
    with pytest.raises(OSError, match="taken"):
        store.write("after", "taken")  # a folder is there
    with pytest.raises(TypeError):
        store.write_json({"a": object()}, "taken", "file.txt")
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(found) == ["taken", "taken/file.txt"]
    assert (tmp_path / "taken" / "file.txt").read_text() == "before"


def test_a_partial_json_is_never_seen(tmp_path):
    store, values = SampleStore(str(tmp_path)), list(range(2000))
    for i in range(5):
        store.write_json([*values, i], "a.json")
        assert json.loads((tmp_path / "a.json").read_text())[-1] == i
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
