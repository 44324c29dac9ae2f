"""Rows committed in the background: all of them, in few commits, and never a failure that goes unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from resources.commits import committing
from resources.sample_store import SampleTable


def rows(*names: str) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": names, "fingerprint": [f"print of {name}" for name in names]})


def test_all_rows_are_there_when_the_block_ends(tmp_path):
    tables = [SampleTable(str(tmp_path / name)) for name in "ab"]
    with committing() as commits:
        for i in range(30):
            for table in tables:
                commits.put(table, rows(f"{i:02}"), new={f"{i:02}"})
    for table in tables:
        assert table.keys()["sample_id"].to_list() == [f"{i:02}" for i in range(30)]
        assert len(DeltaTable(table.url).history()) < 15  # rows that came within one commit's wait went together


def test_rows_replace_those_of_equal_id(tmp_path):
    table = SampleTable(str(tmp_path / "a"))
    table.upsert(rows("x", "y"))
    with committing() as commits:
        commits.put(table, rows("y", "z").with_columns(fingerprint=pl.lit("new")), new={"z"})
    assert table.keys().rows() == [("x", "print of x"), ("y", "new"), ("z", "new")]


def test_rows_are_kept_where_the_block_fails(tmp_path):
    table = SampleTable(str(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt), committing() as commits:
        commits.put(table, rows("x"), new={"x"})
        raise KeyboardInterrupt
    assert table.keys()["sample_id"].to_list() == ["x"]


def test_a_commit_that_fails_surfaces(tmp_path):
    (tmp_path / "a").write_text("a file where the table should be")
    table = SampleTable(str(tmp_path / "a" / "table"))
    with pytest.raises(DeltaError, match="Not a directory"), committing() as commits:
        commits.put(table, rows("x"), new={"x"})
        for _ in range(200):  # it surfaces at a later put already, and on leaving at the latest
            commits.put(table, rows("y"), new={"y"})
            time.sleep(0.01)


def test_a_killed_process_leaves_what_was_committed(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        import polars as pl
        from resources.commits import committing
        from resources.sample_store import SampleTable
        with committing() as commits:
            for i in range(10_000):
                frame = pl.DataFrame({"sample_id": [f"{i:05}"], "fingerprint": ["p"]})
                commits.put(SampleTable(sys.argv[1]), frame, new={f"{i:05}"})
                time.sleep(0.01)
    """)
    table = SampleTable(str(tmp_path / "a"))
    process = subprocess.Popen([sys.executable, "-c", script, table.url])
    waited = time.monotonic() + 60
    while not table.exists and time.monotonic() < waited:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = table.keys()["sample_id"].to_list()
    assert kept == [f"{i:05}" for i in range(len(kept))]
    assert kept
