"""What a store of very many pictures costs, with synthetic latents: `python tests/benchmarks/scale.py --rows 1000000`.

Measures what grows with the number of pictures and needs no picture: keys in Delta Lake (first append, a night's diff,
append and removal) and the index (build, recall against exact search, search, a night's update, saving, loading).
Latents lie in a file that is mapped, not read, and go when it ends. Figures are JSON on stdout: seconds passed,
processor seconds, gigabytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from resources.config import IndexConfig
from resources.sample_store import SampleTable
from resources.vector_index import VectorIndex

BLOCK = 100_000
QUERIES = 10_000
K = 5
CENTRES = 2_000

Figures = dict[str, Any]


def main() -> None:
    """Run both parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="pictures in the store")
    parser.add_argument("--width", type=int, default=64, help="values of a latent")
    parser.add_argument("--night", type=float, default=0.001, help="share of pictures that a night adds and removes")
    parser.add_argument("--exact-up-to", type=int, default=100_000)
    parser.add_argument("--compress-above", type=int, default=5_000_000)
    parser.add_argument("--memory-gb", type=float, default=8)
    parser.add_argument("--only", choices=["keys", "index"], help="one part alone")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for temporary files")
    given = parser.parse_args()
    figures: Figures = {"rows": given.rows, "width": given.width}
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        if given.only != "index":
            measure_keys(Path(folder), given.rows, round(given.rows * given.night), figures)
        if given.only != "keys":
            settings = IndexConfig(
                exact_up_to=given.exact_up_to, compress_above=given.compress_above, memory_gb=given.memory_gb
            )
            measure_index(Path(folder), given.rows, given.width, round(given.rows * given.night), settings, figures)
    figures["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(figures, indent=1))  # noqa: T201


def measure_keys(folder: Path, rows: int, night: int, figures: Figures) -> None:
    """The table of a data set's keys and fingerprints: first append, then a night of new and removed pictures."""
    table = SampleTable(str(folder / "keys"))
    wanted = keys(0, rows)
    with measured(figures, "keys_first_append"):
        table.upsert(wanted)
    figures["keys_gigabytes"] = folder_gigabytes(folder / "keys")
    tomorrow = pl.concat([wanted[night:], keys(rows, rows + night)])
    with measured(figures, "keys_diff"):
        change = table.diff(tomorrow)
    assert (len(change.new), len(change.removed), change.kept) == (night, night, rows - night)
    with measured(figures, "keys_night_append"):
        table.upsert(tomorrow[-night:], new=change.new)
    with measured(figures, "keys_night_remove"):
        table.remove(change.removed)
    with measured(figures, "keys_version"):
        table.version()


def measure_index(
    folder: Path, rows: int, width: int, night: int, settings: IndexConfig, figures: Figures
) -> None:  # fmt: skip
    """The index over the reference: build, recall, search, a night's update, the file."""
    latents = mapped(folder / "latents", rows + night + QUERIES, width)
    ids = keys(0, rows + night)["sample_id"]
    queries = np.asarray(latents[-QUERIES:])
    with measured(figures, "index_build"):
        index = VectorIndex.build(ids[:rows], latents[:rows], settings=settings, folder=folder)
    with measured(figures, "index_tune"):
        figures["recall"] = index.tune(ids[:rows], latents[:rows], queries, K, settings.recall)
    figures |= {"kind": index.card.kind, "lists": getattr(index.index, "nlist", None), "probes": index.card.nprobe}
    with measured(figures, "index_search_10000"):
        index.search(queries, K)
    with measured(figures, "index_save"):
        index.save(folder / "one.faiss")
    figures["index_gigabytes"] = sum(path.stat().st_size for path in folder.glob("one.*")) / 2**30
    with measured(figures, "index_load"):
        index = VectorIndex.load(folder / "one.faiss")
    with measured(figures, "index_night_update"):
        index.update(ids[night:], latents[night : rows + night])
    with measured(figures, "index_night_save"):
        index.save(folder / "one.faiss")
    with measured(figures, "index_night_recall"):
        figures["recall_after"] = index.tune(
            ids[night:], latents[night : rows + night], queries, K, settings.recall
        )  # fmt: skip


@contextmanager
def measured(figures: Figures, name: str) -> Iterator[None]:
    """Seconds passed and processor seconds of what runs inside."""
    passed, spent = time.perf_counter(), time.process_time()
    yield
    figures[name] = {"passed": time.perf_counter() - passed, "processor": time.process_time() - spent}


def keys(first: int, last: int) -> pl.DataFrame:
    """Ids as data sets have them, a fingerprint of 32 characters each."""
    numbers = pl.int_range(first, last, eager=True)
    return pl.DataFrame(
        {"sample_id": pl.select(pl.format("drive_{}/frame_{}", numbers // 1000, numbers)).to_series(),
         "fingerprint": pl.select(pl.format("{}{}", numbers.hash(1), numbers.hash(2))).to_series()}
    )  # fmt: skip


def mapped(path: Path, rows: int, width: int) -> np.ndarray:
    """Latents around random centres in a mapped file, written block by block."""
    draws = np.random.default_rng(0)
    centres = draws.standard_normal((CENTRES, width), dtype=np.float32)
    written = np.memmap(path, np.float32, "w+", shape=(rows, width))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        noise = draws.standard_normal((count, width), dtype=np.float32)
        written[start : start + count] = centres[draws.integers(0, CENTRES, count)] + 0.7 * noise
    written.flush()
    return np.memmap(path, np.float32, "r", shape=(rows, width))


def folder_gigabytes(folder: Path) -> float:
    """Size of all files under it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30


if __name__ == "__main__":
    main()
