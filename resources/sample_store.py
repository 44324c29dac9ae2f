"""The store: per-sample tables under Delta Lake, and the folder of all else that a run keeps.

Belongs here: reading, diffing and atomically changing tables by row fingerprint; paths of the store.
Does not: what a table holds or what its fingerprints cover (each stage decides), Dagster.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from resources.errors import ConfigError, DomainGapError
from resources.fingerprint import rows_version

COMPACT_ABOVE_FILES = 32
"""Batches commit one small file each; above this count a finished stage rewrites them as one."""


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
    """One Delta table with an id column and a `fingerprint` column; every change is one atomic commit."""

    def __init__(self, url: str, id_column: str = "sample_id") -> None:
        self.url = url
        self.id_column = id_column

    @property
    def exists(self) -> bool:
        """Whether anything was ever written here."""
        from deltalake import DeltaTable

        return DeltaTable.is_deltatable(self.url)

    def scan(self) -> pl.LazyFrame:
        """Lazy frame over all rows. Raises StoreError where there is no table yet."""
        if not self.exists:
            raise StoreError(f"{self.url}: no such table yet; 'domain-gap run' makes it")
        return pl.scan_delta(self.url)

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All rows, sorted by id; some columns or all. Raises StoreError where there is no table yet."""
        lazy = self.scan()
        if columns is not None:
            lazy = lazy.select([self.id_column, *(name for name in columns if name != self.id_column)])
        return lazy.collect().sort(self.id_column)

    def keys(self) -> pl.DataFrame:
        """Columns id and fingerprint, sorted by id; empty where there is no table yet."""
        if not self.exists:
            return pl.DataFrame(schema={self.id_column: pl.String, "fingerprint": pl.String})
        return self.read(["fingerprint"])

    def diff(self, wanted: pl.DataFrame) -> Change:
        """Compare with the ids and fingerprints that should be there (columns id, fingerprint)."""
        stored = self.keys().rename({"fingerprint": "stored"})
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

        Rows whose ids are all among `new` (known not to be there) are appended without a look at the table.
        """
        from deltalake import DeltaTable, write_deltalake

        if rows.is_empty() and self.exists:
            return
        if not self.exists:
            write_deltalake(self.url, rows, mode="append")
            return
        if not self._same_schema(rows):
            write_deltalake(self.url, rows, mode="overwrite", schema_mode="overwrite")
            return
        known_new = set(rows[self.id_column]) <= set(new)
        if known_new or not set(rows[self.id_column]) & set(self.keys()[self.id_column]):
            write_deltalake(self.url, rows, mode="append")
            return
        table = DeltaTable(self.url)
        merger = table.merge(rows, f"t.{self.id_column} = s.{self.id_column}", source_alias="s", target_alias="t")
        merger.when_matched_update_all().when_not_matched_insert_all().execute()

    def remove(self, ids: Sequence[str]) -> None:
        """Delete rows by id, in one commit."""
        from deltalake import DeltaTable

        if not ids:
            return
        gone = pl.DataFrame({self.id_column: list(ids)}, schema={self.id_column: pl.String})
        merger = DeltaTable(self.url).merge(
            gone, f"t.{self.id_column} = s.{self.id_column}", source_alias="s", target_alias="t"
        )
        merger.when_matched_delete().execute()

    def finish(self) -> None:
        """After a stage: merge many small files into one."""
        from deltalake import DeltaTable

        if self.exists and len((table := DeltaTable(self.url)).file_uris()) > COMPACT_ABOVE_FILES:
            table.optimize.compact()

    def version(self) -> str:
        """Data version of the table: a hash of its sorted (id, fingerprint) pairs."""
        return rows_version(self.keys().iter_rows())

    def commit(self) -> str:
        """Names the table's present state, for `read_at`. Raises StoreError where there is no table yet."""
        from deltalake import DeltaTable

        if not self.exists:
            raise StoreError(f"{self.url}: no such table yet; 'domain-gap run' makes it")
        table = DeltaTable(self.url)
        return f"{table.metadata().id}@{table.version()}"

    def read_at(self, commit: str, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns as they were at a `commit`, sorted by id.

        Raises StoreError where that state is gone: the table was made anew, or its old files were cleaned up.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        identity, _, version = commit.rpartition("@")
        gone = f"{self.url}: its state {commit} can't be read any more"
        if not self.exists or str(DeltaTable(self.url).metadata().id) != identity:
            raise StoreError(f"{gone}: the table was made anew")
        try:
            rows = pl.scan_delta(self.url, version=int(version)).select([self.id_column, *columns]).collect()
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

    def _same_schema(self, rows: pl.DataFrame) -> bool:
        """Whether the table holds these columns, as Delta stores them (it keeps no unsigned integers, say)."""
        from deltalake import DeltaTable, Schema

        stored, given = DeltaTable(self.url).schema(), Schema.from_arrow(rows.head(0).to_arrow().schema)
        return {field.name: field.type for field in stored.fields} == {field.name: field.type for field in given.fields}


class SampleStore:
    """All that a run keeps: tables by asset prefix and name, and files."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def table(self, key: str, *names: str, id_column: str = "sample_id") -> SampleTable:
        """The table of an asset: `key` is 'source' or a target's name."""
        return SampleTable("/".join([self.url, "tables", key, *names]), id_column)

    def path(self, *parts: str) -> Path:
        """A file's place in the store; its folder is made. Raises ConfigError for a store that is no local folder."""
        if "://" in self.url:
            raise ConfigError(f"store: {self.url!r}: models, index and reports need a local folder, got a URL")
        path = Path(self.url, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, data: bytes | str, *parts: str) -> Path:
        """Write a file whole or not at all."""
        path = self.path(*parts)
        content = data.encode() if isinstance(data, str) else data
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(content)  # and so with the rights of the user's umask, as every file of the store
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return path

    def write_json(self, value: Any, *parts: str) -> Path:
        """Write a JSON file whole or not at all."""
        return self.write(json.dumps(value, indent=1, sort_keys=True), *parts)

    def read_json(self, *parts: str) -> Any:
        """Read a JSON file. Raises StoreError where it is missing."""
        path = self.path(*parts)
        if not path.exists():
            raise StoreError(f"{path}: not there yet; 'domain-gap run' makes it")
        return json.loads(path.read_text())
