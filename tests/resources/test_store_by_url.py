"""A store by URL, on an S3 server on loopback: files, local copies that follow them, tables that two writers change."""

from __future__ import annotations

import threading
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from object_store import BUCKET, SECRET, object_store, options_of

from resources.config import load_config
from resources.errors import ConfigError
from resources.sample_store import SampleStore, StoreError, open_store

CONFIG = "classes: [road, sky]\nsource: {name: a, reader: streets}\ntargets: [{name: b, reader: streets}]\n"


@pytest.fixture(scope="module")
def address():
    with object_store() as found:
        yield found


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("STORE_SECRET", SECRET)


@pytest.fixture
def machine(address, request, tmp_path):
    """Opens the test's store as another machine would, with a home of its own."""

    def opened(name: str = "one") -> SampleStore:
        prefix = request.node.name.replace("[", "/").rstrip("]")
        return SampleStore(f"s3://{BUCKET}/{prefix}/", options_of(address), tmp_path / name)

    return opened


def rows(*ids: str, fingerprint: str = "f0") -> pl.DataFrame:
    return pl.DataFrame({"sample_id": list(ids), "fingerprint": [fingerprint] * len(ids)})


def test_files_are_written_read_and_removed(machine):
    store = machine()
    store.check()
    store.write("grün", "reports", "kitti", "a.txt")
    text = store.write_json({"b": [1.5, None]}, "scores", "kitti.json")
    other = machine("two")
    assert other.read("reports", "kitti", "a.txt").decode() == "grün"
    assert other.read("scores", "kitti.json").decode() == text
    assert other.read_json("scores", "kitti.json") == {"b": [1.5, None]}
    assert other.place("scores", "kitti.json") == f"{store.url}/scores/kitti.json"
    assert other.exists("scores", "kitti.json") and not other.exists("scores")
    store.remove("scores", "kitti.json")
    store.remove("scores", "kitti.json")
    assert not other.exists("scores", "kitti.json")
    with pytest.raises(StoreError, match="domain-gap run"):
        other.read("scores", "kitti.json")


def test_a_local_copy_follows_the_store_and_fetches_only_what_changed(machine):
    store, other = machine(), machine("two")
    for name in ("same", "changed", "gone"):
        store.write(name, "models", f"{name}.txt")
    folder = other.local_copy("models")
    fetched = (folder / "same.txt").stat().st_mtime_ns
    store.write("changed since", "models", "changed.txt")
    store.remove("models", "gone.txt")
    (folder / "left.txt").write_text("by a killed run")
    (folder / "same.txt").with_name(".partial").write_text("")
    assert other.local_copy("models") == folder
    found = {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}
    assert found == {"same.txt": "same", "changed.txt": "changed since", "left.txt": "by a killed run"}
    assert (folder / "same.txt").stat().st_mtime_ns == fetched


def test_what_was_changed_in_a_working_copy_is_in_the_store_after_it(machine):
    store, other = machine(), machine("two")
    store.write("old", "runs", "seed-0", "weights")
    store.write("old", "runs", "state")
    with pytest.raises(RuntimeError), store.working_copy("runs") as folder:
        (folder / "seed-0" / "weights").write_text("new")
        (folder / "seed-1").mkdir()
        (folder / "seed-1" / "weights").write_text("more")
        (folder / ".weights.partial").write_text("half")
        (folder / "state").unlink()
        raise RuntimeError
    there = other.local_copy("runs")
    assert (there / "seed-0" / "weights").read_text() == "new"
    assert (there / "seed-1" / "weights").read_text() == "more"
    assert not (there / "state").exists() and not (there / ".weights.partial").exists()
    written = (there / "seed-0" / "weights").stat().st_mtime_ns
    with other.working_copy("runs"):
        pass
    assert (there / "seed-0" / "weights").stat().st_mtime_ns == written


def test_tables_are_brought_up_to_date_and_compacted(machine, monkeypatch):
    monkeypatch.setattr("resources.sample_store.COMPACT_ABOVE_FILES", 3)
    table, contents = machine().table("kitti", "traits"), [f"s{i:02d}" for i in range(5)]
    assert not table.exists and table.keys().is_empty()
    table.update(rows(*contents), lambda ids: (rows(name) for name in ids))
    assert len(DeltaTable(table.url, storage_options=table._options).file_uris()) == 1
    change = table.update(rows("s01", "new", fingerprint="f1"), lambda ids: iter([rows(*ids, fingerprint="f1")]))
    assert (change.new, change.changed, len(change.removed)) == (["new"], ["s01"], len(contents) - 1)
    assert machine("two").table("kitti", "traits").keys().rows() == [("new", "f1"), ("s01", "f1")]


@pytest.mark.parametrize("where", ["url", "folder"])
def test_two_writers_at_once_lose_no_row_and_write_none_twice(where, machine, tmp_path):
    """Both begin with a table that is not there, share half of their rows, and commit two at a time."""
    shared = [f"s{i}" for i in range(4)]
    wanted = {"one": [*(f"a{i}" for i in range(4)), *shared], "two": [*shared, *(f"b{i}" for i in range(4))]}
    stores = {name: machine(name) if where == "url" else SampleStore(str(tmp_path / "store")) for name in wanted}
    together, failed = threading.Barrier(2), []

    def write(name: str) -> None:
        table, ids = stores[name].table("kitti", "traits"), wanted[name]
        try:
            change = table.diff(rows(*ids))
            together.wait()
            for start in range(0, len(ids), 2):
                table.upsert(rows(*ids[start : start + 2]), new=change.new)
            table.remove(ids[:1])
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=[name]) for name in wanted]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    kept = stores["one"].table("kitti", "traits").keys()["sample_id"].to_list()
    # s0 is removed by the second writer, unless the first comes to it only afterwards
    assert sorted({*kept, "s0"}) == sorted({*wanted["one"], *wanted["two"]} - {"a0"})
    assert len(kept) == len(set(kept))


def test_a_store_that_does_not_answer_is_named_and_no_secret_is_told(address, tmp_path):
    missing = SampleStore("s3://another-bucket/gap", options_of(address), tmp_path)
    with pytest.raises(ConfigError, match="s3://another-bucket/gap: can't be reached") as told:
        missing.check()
    assert SECRET not in str(told.value)
    for value in (missing, missing.table("a", "b"), vars(load(tmp_path, address, "s3://b/gap"))):
        assert SECRET not in repr(value)
    with pytest.raises(ConfigError, match="no-such-protocol"):
        SampleStore("no-such-protocol://bucket/gap", home=tmp_path).check()
    with pytest.raises(ConfigError, match="storage_options: taken for s3:// alone"):
        SampleStore("gs://bucket/gap", {"aws_region": "x"}, tmp_path).check()


def load(folder: Path, address: str, store: str):
    options = "\n".join(f"  {name}: {value}" for name, value in options_of(address).items())
    (folder / "gap.yaml").write_text(f"store: {store}\nstorage_options:\n{options}\n{CONFIG}")
    return load_config(folder / "gap.yaml")


def test_a_config_names_variables_and_holds_no_secret(address, tmp_path, monkeypatch):
    config = load(tmp_path, address, f"s3://{BUCKET}/gap")
    open_store(config).check()
    assert open_store(config.model_copy(update={"home": tmp_path / "h"})).home == tmp_path / "h"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    homes = {open_store(config).home, open_store(config.model_copy(update={"storage_options": {}})).home}
    assert len(homes) == 2, "two servers may have buckets of one name"
    assert {home.parent for home in homes} == {tmp_path / "state" / "domain-gap"}
    monkeypatch.delenv("STORE_SECRET")
    with pytest.raises(ConfigError, match="aws_secret_access_key: the environment variable STORE_SECRET is not set"):
        open_store(config)


@pytest.mark.parametrize(
    "store", ["s3://me:hush@bucket/gap", "s3://me:hu/sh@bucket/gap", "s3://bucket/gap?token=hush", "s3://bucket/a b"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(store, tmp_path):
    (tmp_path / "gap.yaml").write_text(f"store: {store}\n{CONFIG}")
    with pytest.raises(ConfigError, match="store: expected a bucket and a prefix") as told:
        load_config(tmp_path / "gap.yaml")
    assert "hu" not in str(told.value).removeprefix(str(tmp_path))


@pytest.mark.parametrize("name", ["aws_secret_access_key", "aws_session_token", "azure_storage_account_key"])
def test_secrets_in_a_config_are_refused_and_not_repeated(name, tmp_path):
    (tmp_path / "gap.yaml").write_text(f"storage_options: {{{name}: hush-hush}}\n{CONFIG}")
    with pytest.raises(ConfigError, match=rf"storage_options: {name}: expected \$\{{NAME\}}") as told:
        load_config(tmp_path / "gap.yaml")
    assert "hush" not in str(told.value)
