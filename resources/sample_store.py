"""The store: per-sample tables under Delta Lake, and the files of all else that a run keeps.

Belongs here: reading, diffing and atomically changing tables by row fingerprint; which place of the store is what.
Does not: what a table holds or what its fingerprints cover (each stage decides), how files travel (`store_files.py`),
Dagster.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from resources.errors import DomainGapError
from resources.fingerprint import fingerprint, rows_version
from resources.storage_options import deltalake_options, endpoint_of, expanded
from resources.store_files import LocalFiles, RemoteFiles, StoreFiles

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from resources.config import GapConfig

COMPACT_ABOVE_FILES = 32
"""Batches commit one small file each; above this count a finished stage rewrites them as one."""
COMMIT_ATTEMPTS = 100
PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between attempts, growing; of writers at odds one always succeeds."""


class StoreError(DomainGapError):
    """The store lacks something that an earlier stage should have written."""


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between the rows that should be there and those that are."""

    new: list[str]
    changed: list[str]
    removed: list[str]
    kept: int

    @property
    def stale(self) -> list[str]:
        """Ids whose rows must be computed, new ones first."""
        return self.new + self.changed

    def counts(self) -> dict[str, int]:
        """Sizes of the four parts, for metadata."""
        return {
            "new": len(self.new),
            "changed": len(self.changed),
            "removed": len(self.removed),
            "kept": self.kept,
        }


class SampleTable:
    """One Delta table with an id column and a `fingerprint` column; every change is one atomic commit.

    Several writers may change it at once: a commit on what another has changed meanwhile fails, and is decided anew.
    """

    def __init__(
        self, url: str, id_column: str = "sample_id", storage_options: Mapping[str, str] | None = None
    ) -> None:
        self.url = url
        self.id_column = id_column
        self._options = dict(storage_options) if storage_options is not None else None
        self._compared: int | None = None
        """The version that `diff` saw, moved on by commits of this object alone; else `new` ids may be there by now."""

    @property
    def exists(self) -> bool:
        """Whether anything was ever written here."""
        return self._open() is not None  # `is_deltatable` asks an object store with Python's lock held

    def scan(self) -> pl.LazyFrame:
        """Lazy frame over all rows. Raises StoreError where there is no table yet."""
        return pl.scan_delta(self._there())

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All rows, sorted by id; some columns or all. Raises StoreError where there is no table yet."""
        return self._sorted(self.scan(), columns)

    def keys(self) -> pl.DataFrame:
        """Columns id and fingerprint, sorted by id; empty where there is no table yet."""
        return self._keys_of(self._open())

    def diff(self, wanted: pl.DataFrame) -> Change:
        """Compare with the ids and fingerprints that should be there (columns id, fingerprint)."""
        table = self._open()
        self._compared = _version(table)
        stored = self._keys_of(table).rename({"fingerprint": "stored"})
        joined = wanted.select(self.id_column, "fingerprint").join(stored, on=self.id_column, how="full", coalesce=True)
        is_new = pl.col("stored").is_null()
        is_removed = pl.col("fingerprint").is_null()
        differs = pl.col("stored") != pl.col("fingerprint")

        def ids(condition: pl.Expr) -> list[str]:
            return joined.filter(condition)[self.id_column].sort().to_list()

        new, removed = ids(is_new), ids(is_removed)
        changed = ids(~is_new & ~is_removed & differs)
        return Change(new, changed, removed, kept=joined.height - len(new) - len(changed) - len(removed))

    def upsert(self, rows: pl.DataFrame, *, new: Collection[str] = ()) -> None:
        """Insert rows, replacing those with equal ids, in one commit. Another schema replaces the whole table.

        Rows whose ids are all among `new` (not there when `diff` looked) are appended without another look, unless
        somebody else has written since.
        """
        self._commit(lambda table: self._write(table, rows, new))

    def remove(self, ids: Sequence[str]) -> None:
        """Delete rows by id, in one commit."""
        if not ids:
            return
        gone = pl.DataFrame({self.id_column: list(ids)}, schema={self.id_column: pl.String})

        def delete(table: DeltaTable | None) -> None:
            if table is not None:
                self._merger(table, gone).when_matched_delete().execute()

        self._commit(delete)

    def finish(self) -> None:
        """After a stage: merge many small files into one."""
        from deltalake.exceptions import CommitFailedError

        table = self._open()
        if table is not None and len(table.file_uris()) > COMPACT_ABOVE_FILES:
            with suppress(CommitFailedError):  # another writer has replaced some of these files: the next finish does
                table.optimize.compact()

    def version(self) -> str:
        """Data version of the table: a hash of its sorted (id, fingerprint) pairs."""
        return rows_version(self.keys().iter_rows())

    def commit(self) -> str:
        """Names the table's present state, for `read_at`. Raises StoreError where there is no table yet."""
        table = self._there()
        return f"{table.metadata().id}@{table.version()}"

    def read_at(self, commit: str, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns as they were at a `commit`, sorted by id.

        Raises StoreError where that state is gone: the table was made anew, or its old files were cleaned up.
        """
        from deltalake.exceptions import DeltaError

        identity, _, version = commit.rpartition("@")
        gone = f"{self.url}: its state {commit} can't be read any more"
        table = self._open()
        if table is None or str(table.metadata().id) != identity:
            raise StoreError(f"{gone}: the table was made anew")
        try:
            table.load_as_version(int(version))
            rows = pl.scan_delta(table).select([self.id_column, *columns]).collect()
        except (DeltaError, OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise StoreError(f"{gone}: {' '.join(str(error).split())}") from None
        return rows.sort(self.id_column)

    def update(self, wanted: pl.DataFrame, compute: Callable[[list[str]], Iterator[pl.DataFrame]]) -> Change:
        """Bring the table to the wanted rows: compute new and changed ones batch by batch, delete removed ones.

        `compute(ids)` yields frames with id and fingerprint columns. A killed update resumes at its last batch.
        """
        change = self.diff(wanted)
        stale = change.stale
        for _ in range(2):  # rows of another schema replace the table; what that dropped is computed the second time
            if stale:
                for rows in compute(stale):
                    self.upsert(rows, new=change.new)
                stale = self.diff(wanted).stale
        if stale:
            raise StoreError(f"{self.url}: {len(stale)} rows were asked for and not computed, first {stale[0]!r}")
        self.remove(change.removed)
        self.finish()
        return change

    def _there(self) -> DeltaTable:
        table = self._open()
        if table is None:
            raise StoreError(f"{self.url}: no such table yet; 'domain-gap run' makes it")
        return table

    def _open(self) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self.url, storage_options=self._options)
        except TableNotFoundError:
            return None

    def _keys_of(self, table: DeltaTable | None) -> pl.DataFrame:
        if table is None:
            return pl.DataFrame(schema={self.id_column: pl.String, "fingerprint": pl.String})
        return self._sorted(pl.scan_delta(table), ["fingerprint"])

    def _sorted(self, lazy: pl.LazyFrame, columns: Sequence[str] | None) -> pl.DataFrame:
        if columns is not None:
            lazy = lazy.select([self.id_column, *(name for name in columns if name != self.id_column)])
        return lazy.collect().sort(self.id_column)

    def _commit(self, change: Callable[[DeltaTable | None], None]) -> None:
        """Do one change to the table as it is; again, on what it is by then, where another writer came first."""
        from deltalake.exceptions import CommitFailedError

        for attempt in range(COMMIT_ATTEMPTS):
            table = self._open()
            before = _version(table)
            try:
                change(table)
            except CommitFailedError:
                time.sleep(min(PAUSE * (attempt + 1), LONGEST_PAUSE))
                continue
            if before == self._compared and (table is None or table.version() > before):
                self._compared = before + 1  # ours alone, whatever the table has read since
            return
        raise StoreError(f"{self.url}: other writers came first {COMMIT_ATTEMPTS} times; run again when fewer write")

    def _write(self, table: DeltaTable | None, rows: pl.DataFrame, new: Collection[str]) -> None:
        from deltalake import write_deltalake

        if table is None:
            self._create(rows)
        elif rows.is_empty():
            return
        elif not _same_schema(table, rows):
            write_deltalake(table, rows, mode="overwrite", schema_mode="overwrite", commit_properties=_at_once())
        elif self._all_new(table, set(rows[self.id_column]), new):
            write_deltalake(table, rows, mode="append", commit_properties=_at_once())
        else:
            self._merger(table, rows).when_matched_update_all().when_not_matched_insert_all().execute()

    def _create(self, rows: pl.DataFrame) -> None:
        from deltalake import write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        try:
            write_deltalake(self.url, rows, mode="error", storage_options=self._options, commit_properties=_at_once())
        except DeltaError:
            if self.exists:
                raise CommitFailedError(f"{self.url}: made by another writer") from None
            raise

    def _all_new(self, table: DeltaTable, ids: set[str], new: Collection[str]) -> bool:
        if table.version() == self._compared and ids <= set(new):
            return True
        return not ids & set(self._keys_of(table)[self.id_column])

    def _merger(self, table: DeltaTable, rows: pl.DataFrame) -> Any:
        return table.merge(
            rows, f"t.{self.id_column} = s.{self.id_column}", source_alias="s", target_alias="t",
            commit_properties=_at_once(),
        )  # fmt: skip


def _version(table: DeltaTable | None) -> int:
    return -1 if table is None else table.version()


def _at_once() -> Any:
    """A commit on the version that was read, or none: deltalake would append again after another writer's append."""
    from deltalake import CommitProperties

    return CommitProperties(max_commit_retries=0)


def _same_schema(table: DeltaTable, rows: pl.DataFrame) -> bool:
    """Whether the table holds these columns, as Delta stores them (it keeps no unsigned integers, say)."""
    from deltalake import Schema

    stored, given = table.schema(), Schema.from_arrow(rows.head(0).to_arrow().schema)
    return {field.name: field.type for field in stored.fields} == {field.name: field.type for field in given.fields}


class SampleStore:
    """All that a run keeps: tables by asset prefix and name, and files."""

    def __init__(self, url: str, storage_options: Mapping[str, str] | None = None, home: Path | None = None) -> None:
        """Nothing is opened yet.

        Args:
            url: a folder, or the URL of an object store.
            storage_options: what a URL needs, as in the config; `${NAME}` is read from the environment here.
            home: see `home`; by default the store itself, for a URL a folder of the user's.

        Raises:
            ConfigError: an option names a variable that is not set.
        """
        self.url = url.rstrip("/")
        self.remote = "://" in url
        options = expanded(storage_options or {}) if self.remote else {}
        self._options = deltalake_options(url, options) if self.remote else None
        self.home = home or (_home_of(self.url, endpoint_of(options)) if self.remote else Path(url))
        """Local folder of what can't lie in an object store: Dagster's home, working copies, drawn pictures."""
        self.files: StoreFiles = LocalFiles(url)
        if self.remote:
            self.files = RemoteFiles(self.url, options, self.home / "copies")

    def check(self) -> None:
        """See whether a store by URL answers. Raises ConfigError that says why not."""
        self.files.check()

    def table(self, key: str, *names: str, id_column: str = "sample_id") -> SampleTable:
        """The table of an asset: `key` is 'source' or a target's name."""
        return SampleTable("/".join([self.url, "tables", key, *names]), id_column, self._options)

    def place(self, *parts: str) -> str:
        """Where a file is, for people: a path or a URL."""
        return self.files.place(*parts)

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file."""
        return self.files.exists(*parts)

    def read(self, *parts: str) -> bytes:
        """A file's content. Raises StoreError where it is missing."""
        try:
            return self.files.read(*parts)
        except FileNotFoundError:
            raise StoreError(f"{self.place(*parts)}: not there yet; 'domain-gap run' makes it") from None

    def read_json(self, *parts: str) -> Any:
        """Read a JSON file. Raises StoreError where it is missing."""
        return json.loads(self.read(*parts))

    def write(self, data: bytes | str, *parts: str) -> None:
        """Write a file whole or not at all."""
        self.files.write(data.encode() if isinstance(data, str) else data, *parts)

    def write_json(self, value: Any, *parts: str) -> str:
        """Write a JSON file whole or not at all; returns its text."""
        text = json.dumps(value, indent=1, sort_keys=True)
        self.write(text, *parts)
        return text

    def remove(self, *parts: str) -> None:
        """Remove a file, if it is there."""
        self.files.remove(*parts)

    def local_copy(self, *parts: str) -> Path:
        """A folder of the store to read real files from; a local store's own folder."""
        return self.files.local_copy(*parts)

    def working_copy(self, *parts: str) -> AbstractContextManager[Path]:
        """A folder of the store to change real files in; they are in the store once the context ends."""
        return self.files.working_copy(*parts)


def open_store(config: GapConfig) -> SampleStore:
    """The store of a config."""
    return SampleStore(config.store, config.storage_options, config.home)


def _home_of(url: str, endpoint: str | None) -> Path:
    """A folder for each store; two servers may have buckets of one name."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = re.sub(r"[^\w.-]+", "-", url.partition("://")[2])
    return Path(state, "domain-gap", f"{name}-{fingerprint(url, endpoint)[:8]}")
