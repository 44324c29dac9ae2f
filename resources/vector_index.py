"""FAISS: nearest-neighbour search over L2-normalised latents, kept in the store and updated in place.

Belongs here: building, updating, tuning, saving, loading and searching an index, exact or approximate by size.
Does not: scores and statistics (scoring), when a reference has changed (scoring).

Exact up to `IndexConfig.exact_up_to` rows; above, inverted lists (IVF) around 4√n centroids trained on a sample; above
`compress_above`, lists of product-quantised codes (IVF-PQ). An approximate index probes as many lists as the recall
goal asks for, and says what recall it measured. Lists that don't fit `memory_gb` stay on disk, memory-mapped.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.config import IndexConfig
from resources.errors import DomainGapError

Vectors = NDArray[np.float32]
Keys = NDArray[np.int64]

QUERIES = 1_000
"""Queries that recall is measured on."""
TRAIN_PER_LIST = 64
"""Training rows per centroid; FAISS asks for 39 at least."""
BLOCK_ROWS = 65_536
"""Rows that are normalised and added, or searched for the true neighbours, at a time."""
GIGABYTE = 2**30
LEAST_GAIN = 0.01
"""Twice the probes must find this share more of the true neighbours: else codes lose them, and not lists."""

COLUMNS = {"key": pl.Int64, "sample_id": pl.String, "fingerprint": pl.String}


@dataclass(frozen=True)
class IndexCard:
    """What an index is, and how well it finds the true neighbours."""

    kind: Literal["exact", "ivf", "ivf_pq"]
    trained_rows: int
    """Rows of the set when it was trained: lists for a set of twice or half the size are the wrong number."""
    nprobe: int = 0
    recall: float | None = 1.0
    """Share of the true k nearest that it finds; none before `tune`."""
    queries: int = 0


def import_faiss() -> Any:
    """The module `faiss`, from faiss-cpu or faiss-gpu. Raises DomainGapError that names the two commands."""
    try:
        import faiss
    except ImportError:
        raise DomainGapError(
            "faiss is not installed; run: pip install 'domain-gap[cpu]' (or 'domain-gap[gpu]' on a machine with CUDA)"
        ) from None
    return faiss


def normalised(vectors: NDArray[Any]) -> Vectors:
    """Rows scaled to unit length, float32, C order; rows of zeros stay zero."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    units: Vectors = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


@dataclass
class VectorIndex:
    """Reference latents by sample id; `search` gives Euclidean distances between unit vectors."""

    index: Any
    rows: pl.DataFrame
    """Columns key (as FAISS numbers it), sample_id, fingerprint; sorted by key."""
    card: IndexCard
    lists: Path | None = None
    """File of the inverted lists, where they are kept on disk."""
    _on_gpus: Any = field(default=None, repr=False)

    @property
    def ids(self) -> list[str]:
        """Sample ids, in the order of their keys."""
        return self.rows["sample_id"].to_list()

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        vectors: NDArray[Any],
        *,
        fingerprints: Sequence[str] | None = None,
        settings: IndexConfig | None = None,
        folder: Path | None = None,
        seed: int = 0,
    ) -> VectorIndex:
        """Index over rows (n, d), normalised here; the kind goes by n. `tune` an approximate one before it is searched.

        Args:
            ids: (n,) distinct.
            vectors: (n, d); a memory-mapped array is read in blocks.
            fingerprints: (n,) of each row, by which `update` sees changes; the id alone where left out.
            settings: sizes and limits; the defaults where left out.
            folder: where lists beyond memory are put; they stay in memory without one.
            seed: of the training sample.
        """
        chosen = settings or IndexConfig()
        kind = _kind(len(ids), chosen)
        index, lists = (
            (import_faiss().IndexFlatL2(vectors.shape[1]), None)
            if kind == "exact"
            else _trained(kind, vectors, chosen, folder, seed)
        )
        card = IndexCard(kind, len(ids), recall=1.0 if kind == "exact" else None)
        built = cls(index, pl.DataFrame(schema=COLUMNS), card, lists)
        built._add(_named(ids, fingerprints), vectors)
        return built

    def update(self, ids: Sequence[str], vectors: NDArray[Any], fingerprints: Sequence[str] | None = None) -> int:
        """Take out rows that are gone or changed, add new and changed ones; how many of both.

        Args:
            ids: (n,) of all rows that should be there.
            vectors: (n, d) of all; those that stay are not read.
            fingerprints: (n,) as in `build`.
        """
        wanted, same = _named(ids, fingerprints), ["sample_id", "fingerprint"]
        gone = self.rows.join(wanted, on=same, how="anti")
        missing = wanted.join(self.rows, on=same, how="anti", maintain_order="left")
        if gone.is_empty() and missing.is_empty():
            return 0
        if self.lists is not None:  # what was saved finds no lists now: an update that is killed ends in a new build
            self._move_lists(self.lists.with_name(f".{uuid.uuid4().hex}.lists"))
        self._remove(gone["key"].to_numpy())
        self._add(missing, vectors[missing["key"].to_numpy()])
        return gone.height + missing.height

    def outgrown(self, rows: int, settings: IndexConfig) -> bool:
        """Whether a set of this many rows asks for another kind of index, or for other lists."""
        trained = self.card.trained_rows
        resized = self.card.kind != "exact" and not trained / 2 <= rows <= trained * 2
        return resized or _kind(rows, settings) != self.card.kind

    def tune(
        self, ids: Sequence[str], vectors: NDArray[Any], queries: NDArray[Any], k: int, goal: float
    ) -> float | None:
        """Measure recall on up to 1,000 queries, and probe more lists until it reaches the goal; what it comes to.

        Args:
            ids: (n,) of all rows of the index.
            vectors: (n, d) of them.
            queries: (q, d), not of the index's rows, which are asked for themselves where there is none; more than
                1,000 are thinned evenly.
            k: neighbours that must be found.
            goal: share of them to find. Where codes lose more than that, probing stops once it gains nothing.
        """
        if self.card.kind == "exact":
            return self.card.recall
        asked = queries if len(queries) else vectors
        asked = asked[:: max(1, math.ceil(len(asked) / QUERIES))]
        names = np.asarray(ids)
        true = [set(names[row]) for row in _true_neighbours(normalised(asked), vectors, min(k, len(ids)))]
        probes, least = max(self.card.nprobe, 1), 0.0
        while True:
            before = self.card
            self.card = replace(before, nprobe=min(probes, self.index.nlist), queries=len(asked))
            found = self.search(asked, k)[1]
            recall = float(np.mean([len(own & set(row)) / len(own) for own, row in zip(true, found, strict=True)]))
            if recall < min(goal, least):
                self.card = before
                return before.recall
            self.card = replace(self.card, recall=recall)
            if recall >= goal or probes >= self.index.nlist:
                return recall
            probes, least = 2 * probes, recall + LEAST_GAIN

    def search(self, vectors: NDArray[Any], k: int) -> tuple[NDArray[np.float64], list[list[str]]]:
        """Distances (n, k), nearest first, and the neighbours' ids. k is cut to the index's size."""
        squared, found = self._search(normalised(vectors), min(k, self.rows.height))
        names = self.rows["sample_id"].to_numpy()[np.searchsorted(self.rows["key"].to_numpy(), found)]
        return np.sqrt(np.maximum(squared, 0), dtype=np.float64), names.tolist()

    def save(self, path: Path) -> None:
        """Write the index, its rows and its card; each file whole or not at all, the index last."""
        if self.lists is not None:
            self._move_lists(path.with_suffix(".lists"))
        card, rows, temporary = (
            path.with_name(f".{path.stem}{end}.partial") for end in (".json", ".parquet", path.suffix)
        )
        self.rows.write_parquet(rows)
        card.write_text(json.dumps(asdict(self.card)))
        import_faiss().write_index(self.index, str(temporary))
        rows.replace(path.with_suffix(".parquet"))
        card.replace(path.with_suffix(".json"))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> VectorIndex:
        """Read what `save` wrote; lists on disk are mapped, not read."""
        faiss = import_faiss()
        lists = path.with_suffix(".lists")
        on_disk = lists.exists()
        index = faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR if on_disk else 0)
        card = IndexCard(**json.loads(path.with_suffix(".json").read_text()))
        return cls(index, pl.read_parquet(path.with_suffix(".parquet")), card, lists if on_disk else None)

    def _add(self, named: pl.DataFrame, vectors: NDArray[Any]) -> None:
        exact = self.card.kind == "exact"
        first = int(self.rows["key"][-1]) + 1 if self.rows.height else 0
        added = named.select(pl.int_range(first, first + pl.len()).alias("key"), "sample_id", "fingerprint")
        keys = added["key"].to_numpy()
        for block in _blocks(len(keys)):
            rows = normalised(vectors[block])
            self.index.add(rows) if exact else self.index.add_with_ids(rows, keys[block])
        self.rows, self._on_gpus = pl.concat([self.rows, added]), None

    def _remove(self, keys: Keys) -> None:
        if not len(keys):
            return
        self.index.remove_ids(np.ascontiguousarray(keys))
        self.rows, self._on_gpus = self.rows.filter(~pl.col("key").is_in(pl.Series(keys).implode())), None
        if self.card.kind == "exact":  # a flat index closes the gaps and keeps the order
            self.rows = self.rows.with_columns(key=pl.int_range(self.rows.height))

    def _search(self, units: Vectors, k: int) -> tuple[Vectors, Keys]:
        if self.card.kind == "exact":
            return self._searcher().search(units, k)  # type: ignore[no-any-return]
        faiss, probes = import_faiss(), max(self.card.nprobe, 1)
        squared, found = self._searcher().search(units, k, params=faiss.SearchParametersIVF(nprobe=probes))
        short = (found < 0).any(axis=1)  # the lists that were probed hold fewer than k rows
        if short.any():
            every = faiss.SearchParametersIVF(nprobe=self.index.nlist)
            squared[short], found[short] = self._searcher().search(units[short], k, params=every)
        return squared, found

    def _searcher(self) -> Any:
        """The index on all GPUs where there are some and its lists are in memory, else itself."""
        faiss = import_faiss()
        if self.lists is not None or not getattr(faiss, "get_num_gpus", int)():
            return self.index
        if self._on_gpus is None:
            self._on_gpus = faiss.index_cpu_to_all_gpus(self.index)
        return self._on_gpus

    def _move_lists(self, path: Path) -> None:
        """Rename the file of lists, for FAISS too, which opens it by name when it grows."""
        assert self.lists is not None
        self.lists = self.lists.replace(path)
        import_faiss().downcast_InvertedLists(self.index.invlists).filename = str(path)


def _kind(rows: int, settings: IndexConfig) -> Literal["exact", "ivf", "ivf_pq"]:
    if rows <= settings.exact_up_to:
        return "exact"
    return "ivf" if rows <= settings.compress_above else "ivf_pq"


def _trained(
    kind: Literal["ivf", "ivf_pq"], vectors: NDArray[Any], settings: IndexConfig, folder: Path | None, seed: int
) -> tuple[Any, Path | None]:
    """An empty index whose centroids and codes were learned from a sample, and the file of its lists, if any."""
    faiss = import_faiss()
    rows, width = vectors.shape
    lists = max(1, min(round(4 * math.sqrt(rows)), rows // TRAIN_PER_LIST))
    quantizer = faiss.IndexFlatL2(width)
    if kind == "ivf":
        index = faiss.IndexIVFFlat(quantizer, width, lists)
    else:
        index = faiss.IndexIVFPQ(quantizer, width, lists, width // 2 if width % 2 == 0 else width, 8)
    sample = np.random.default_rng(seed).choice(rows, TRAIN_PER_LIST * lists, replace=False)
    index.train(normalised(vectors[np.sort(sample)]))
    if folder is None or rows * (index.code_size + 8) <= settings.memory_gb * GIGABYTE:
        return index, None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{uuid.uuid4().hex}.lists"
    on_disk = faiss.OnDiskInvertedLists(lists, index.code_size, str(path))
    index.replace_invlists(on_disk, True)
    on_disk.this.disown()  # the index frees them, not Python
    return index, path


def _named(ids: Sequence[str], fingerprints: Sequence[str] | None) -> pl.DataFrame:
    columns = {"sample_id": list(ids), "fingerprint": list(fingerprints) if fingerprints is not None else list(ids)}
    return pl.DataFrame(columns, schema={"sample_id": pl.String, "fingerprint": pl.String}).select(
        pl.int_range(pl.len()).alias("key"), "sample_id", "fingerprint"
    )


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, rows))


def _true_neighbours(units: Vectors, vectors: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Rows of the k nearest by exact search, block by block. (q, d), (n, d) → (q, k)."""
    faiss = import_faiss()
    nearest = np.empty((len(units), 0), np.float32)
    rows = np.empty((len(units), 0), np.int64)
    for block in _blocks(len(vectors)):
        distances, found = faiss.knn(units, normalised(vectors[block]), min(k, block.stop - block.start))
        nearest, rows = np.hstack([nearest, distances]), np.hstack([rows, found + block.start])
        best = np.argsort(nearest, axis=1, kind="stable")[:, :k]
        nearest, rows = np.take_along_axis(nearest, best, 1), np.take_along_axis(rows, best, 1)
    return rows
