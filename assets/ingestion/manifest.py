"""What data there is: files with content hashes, then a manifest with a row per sample, the unusable ones quarantined.

Belongs here: scanning, hashing, decoding once for shape and class counts, parts, groups and halves.
Does not: layouts on disk (readers), judging the whole (`quality.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assets.statistics.resampling import dependence_units, halves
from resources.config import DatasetConfig, GapConfig, Selection, SourceConfig
from resources.datasets.base import IGNORE, Reader, SampleFile, apply_selection, as_rgb, decode
from resources.errors import DatasetError, UnreadableSample
from resources.fingerprint import code_version, file_digest, fingerprint, rows_version
from resources.progress import track
from resources.sample_store import Change, SampleTable

DECODE_CHUNK = 64
STAT_CHUNK = 512
UNREADABLE = "unreadable: "
DECODING = ("resources.datasets.base", "resources.datasets.label_map")

FILES_SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "fingerprint": pl.String,
    "image": pl.String,
    "image_size": pl.Int64,
    "image_mtime_ns": pl.Int64,
    "image_hash": pl.String,
    "mask": pl.String,
    "mask_size": pl.Int64,
    "mask_mtime_ns": pl.Int64,
    "mask_hash": pl.String,
}

MANIFEST_SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "fingerprint": pl.String,
    "image": pl.String,
    "mask": pl.String,
    "image_hash": pl.String,
    "mask_hash": pl.String,
    "labels_version": pl.String,
    "split": pl.String,
    "group": pl.String,
    "part": pl.String,
    "unit": pl.String,
    "report_half": pl.Boolean,
    "metadata": pl.String,
    "height": pl.Int32,
    "width": pl.Int32,
    "class_pixels": pl.List(pl.Int64),
    "labelled": pl.Boolean,
    "quarantined": pl.Boolean,
    "reason": pl.String,
}

CONTENT = ["image_hash", "mask_hash", "labels_version"]
CONTENT_OF_FILES = ["sample_id", "image_hash", "mask_hash"]
FACTS = ["height", "width", "class_pixels", "labelled", "quarantined", "reason"]


KINDS = ("image", "mask")
STATE = {kind: [kind, f"{kind}_size", f"{kind}_mtime_ns"] for kind in KINDS}
"""Columns that name a file as the disk has it: its hash is trusted while they stay."""
HASHES = ["image_hash", "mask_hash"]
NO_FILE = -1
"""Size and time of a file that can't be read; of one that does not exist for a sample they are 0."""


def scan_files(reader: Reader, table: SampleTable, *, verify: bool = False) -> tuple[list[SampleFile], Change]:
    """List a data set and bring the table of its files' hashes up to date.

    A file is hashed when its size or time of change moved (or always, with `verify`). One that can't be read keeps its
    place with the error as its hash, and is quarantined later.
    """
    samples = reader.scan()
    known = table.read() if table.exists and not verify else pl.DataFrame(schema=FILES_SCHEMA)
    frame = _file_rows(samples, known)

    def compute(ids: list[str]) -> Iterator[pl.DataFrame]:
        yield frame.filter(pl.col("sample_id").is_in(ids))

    return samples, table.update(frame.select("sample_id", "fingerprint"), compute)


def content_version(files: pl.DataFrame, metadata: Path | None) -> str:
    """Data version of a folder: names and contents of pictures and masks, and the metadata file's content."""
    side = file_digest(metadata) if metadata is not None else ""
    rows = files.select("sample_id", "image_hash", "mask_hash").iter_rows()
    return rows_version([(name, f"{image}/{mask}") for name, image, mask in rows] + [("", side)])


def labels_version(config: GapConfig, dataset: DatasetConfig) -> str:
    """Names all that decides how a mask's ids become classes: labels, class list, the code that decodes."""
    labels = sorted((str(k), v) for k, v in (dataset.labels or {}).items())
    return fingerprint(
        dataset.reader, labels, config.class_names, code_version(*DECODING, f"resources.datasets.{dataset.reader}")
    )


def build_manifest(
    reader: Reader, samples: list[SampleFile], files: pl.DataFrame, config: GapConfig, dataset: DatasetConfig,
    table: SampleTable, *, code: str,
) -> Change:  # fmt: skip
    """Bring the manifest up to date; pictures are opened only where content or label map changed."""
    wanted = _describe(reader, samples, files, config, dataset, code)
    known = table.read([*CONTENT, *FACTS]) if table.exists else None

    def compute(ids: list[str]) -> Iterator[pl.DataFrame]:
        todo = wanted.filter(pl.col("sample_id").is_in(ids))
        chunks = todo.iter_slices(DECODE_CHUNK)
        for chunk in track(chunks, f"{dataset.name}: reading", todo.height, size=lambda done: done.height):
            yield _with_facts(chunk, known, reader, len(config.class_names))

    return table.update(wanted.select("sample_id", "fingerprint"), compute)


def divide_by_group(samples: Sequence[SampleFile], holdout_share: float, name: str) -> set[str]:
    """Ids of the holdout when a source gives one set: whole groups, in the order of their hash, up to the share.

    Raises DatasetError for a set of one group, which can't be divided without splitting what belongs together.
    """
    sizes: dict[str, int] = {}
    for sample in samples:
        sizes[sample.group] = sizes.get(sample.group, 0) + 1
    if len(sizes) < 2:  # noqa: PLR2004
        raise DatasetError(
            f"source {name}: {len(sizes)} group, so it can't be divided into reference and holdout without tearing "
            "a group apart; give 'group', 'group_blocks', or 'reference' and 'holdout'"
        )
    held: set[str] = set()
    taken = 0
    for group in sorted(sizes, key=lambda text: blake2b(text.encode(), digest_size=8).digest()):
        if held and (taken + sizes[group] > holdout_share * len(samples) or len(held) + 1 == len(sizes)):
            continue
        held.add(group)
        taken += sizes[group]
    return {sample.sample_id for sample in samples if sample.group in held}


def parts_of(samples: list[SampleFile], dataset: DatasetConfig) -> dict[str, str]:
    """The part of every sample by its id: 'target', or for a source 'reference', 'holdout' or 'unused'.

    Raises DatasetError for selections that overlap or keep nothing, and for a source that can't be divided.
    """
    if not isinstance(dataset, SourceConfig):
        return {sample.sample_id: "target" for sample in samples}
    reference = _selected(samples, dataset.reference)
    holdout = _selected(samples, dataset.holdout)
    if reference is None or holdout is None:
        pool = reference if reference is not None else holdout
        divided = [sample for sample in samples if pool is None or sample.sample_id in pool]
        holdout = divide_by_group(divided, dataset.holdout_share, dataset.name)
        reference = {sample.sample_id for sample in divided} - holdout
    if both := sorted(reference & holdout):
        raise DatasetError(
            f"source {dataset.name}: {len(both)} samples are in both 'reference' and 'holdout', first {both[0]!r}; "
            "the two selections must not overlap"
        )
    return {
        sample.sample_id: "reference"
        if sample.sample_id in reference
        else "holdout"
        if sample.sample_id in holdout
        else "unused"
        for sample in samples
    }


def _file_rows(samples: list[SampleFile], known: pl.DataFrame) -> pl.DataFrame:
    """Rows of the files table; hash and fingerprint of a row that is as it was are those of the known one."""
    schema: dict[str, Any] = {name: FILES_SCHEMA[name] for name in ["sample_id", *STATE["image"], *STATE["mask"]]}
    columns = {
        "sample_id": [sample.sample_id for sample in samples],
        **_states("image", [str(sample.image) for sample in samples]),
        **_states("mask", [str(sample.mask) if sample.mask is not None else "" for sample in samples]),
    }
    found = pl.DataFrame(columns, schema=schema)
    for kind in KINDS:
        found = _with_hashes(found, known, kind)
    rows = found.join(known, on=found.columns, how="left").select(list(FILES_SCHEMA))
    moved = rows.filter(pl.col("fingerprint").is_null())
    prints = [fingerprint(*row) for row in moved.select(*STATE["image"], *STATE["mask"], *HASHES).iter_rows()]
    moved = moved.with_columns(fingerprint=pl.Series(prints, dtype=pl.String))
    return pl.concat([rows.filter(pl.col("fingerprint").is_not_null()), moved]).sort("sample_id")


def _states(kind: str, paths: list[str]) -> dict[str, list[Any]]:
    """The columns of `STATE`; looked up in parallel, since folders may lie behind a network."""
    slices = [paths[start : start + STAT_CHUNK] for start in range(0, len(paths), STAT_CHUNK)]
    with ThreadPoolExecutor(4) as pool:
        found = [state for states in pool.map(_stat_all, slices) for state in states]
    return dict(zip(STATE[kind], (paths, [size for size, _ in found], [time for _, time in found]), strict=True))


def _stat_all(paths: list[str]) -> list[tuple[int, int]]:
    return [_stat(path) if path else (0, 0) for path in paths]


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116  a Path of each of a million files takes longer than asking the disk
    except OSError:
        return NO_FILE, NO_FILE
    return status.st_size, status.st_mtime_ns


def _with_hashes(found: pl.DataFrame, known: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Add a kind's hashes: known ones where the state is the same, else from the files; sorted by id."""
    name, keys = f"{kind}_hash", ["sample_id", *STATE[kind]]
    trusted = known.filter(pl.col(f"{kind}_size") != NO_FILE).select(*keys, name)
    hashed = found.join(trusted, on=keys, how="left").with_columns(
        pl.when(pl.col(kind) == "").then(pl.lit("")).otherwise(pl.col(name)).alias(name)
    )
    todo = hashed.filter(pl.col(name).is_null())
    if todo.is_empty():
        return hashed.sort("sample_id")
    with ThreadPoolExecutor(4) as pool:
        digests = pl.Series(list(pool.map(_digest, todo[kind])), dtype=pl.String)
    failed = digests.str.starts_with(UNREADABLE)
    states = [pl.when(failed).then(NO_FILE).otherwise(pl.col(column)).alias(column) for column in STATE[kind][1:]]
    todo = todo.with_columns(*states, digests.alias(name))
    return pl.concat([hashed.filter(pl.col(name).is_not_null()), todo]).sort("sample_id")


def _digest(path: str) -> str:
    try:
        return file_digest(Path(path))
    except OSError as error:
        return f"{UNREADABLE}{error.strerror}"


def _describe(
    reader: Reader, samples: list[SampleFile], files: pl.DataFrame, config: GapConfig, dataset: DatasetConfig, code: str
) -> pl.DataFrame:
    """All manifest columns that need no decoding, with the rows' fingerprints."""
    metadata = reader.metadata(samples)
    parts = parts_of(samples, dataset)
    units, report = _units(samples, parts)
    version = labels_version(config, dataset)
    hashes = {name: (image, mask) for name, image, mask in files.select(CONTENT_OF_FILES).iter_rows()}
    rows = []
    for sample in samples:
        name = sample.sample_id
        described = {
            "image": str(sample.image), "mask": str(sample.mask) if sample.mask else None,
            "image_hash": hashes[name][0], "mask_hash": hashes[name][1], "labels_version": version,
            "split": sample.split, "group": sample.group, "part": parts[name], "unit": units[name],
            "report_half": report[name], "metadata": json.dumps(metadata.get(name, {}), sort_keys=True),
        }  # fmt: skip
        rows.append({"sample_id": name, "fingerprint": fingerprint(code, described), **described})
    schema = {column: kind for column, kind in MANIFEST_SCHEMA.items() if column not in FACTS}
    return pl.DataFrame(rows, schema=schema)


def _selected(samples: list[SampleFile], selection: Selection | None) -> set[str] | None:
    if selection is None:
        return None
    return {sample.sample_id for sample in apply_selection(samples, selection, None)}


def _units(samples: list[SampleFile], parts: dict[str, str]) -> tuple[dict[str, str], dict[str, bool]]:
    """Dependence unit and half of every sample, within its part."""
    units: dict[str, str] = {}
    report: dict[str, bool] = {}
    for part in sorted(set(parts.values())):
        names = [sample.sample_id for sample in samples if parts[sample.sample_id] == part]
        groups = [sample.group for sample in samples if parts[sample.sample_id] == part]
        of_part = dependence_units(groups)
        units.update(zip(names, (str(unit) for unit in of_part), strict=True))
        report.update(zip(names, (bool(half) for half in halves(list(of_part))), strict=True))
    return units, report


def _with_facts(chunk: pl.DataFrame, known: pl.DataFrame | None, reader: Reader, classes: int) -> pl.DataFrame:
    """Add what decoding tells: taken from the present rows where the content is the same."""
    facts: dict[str, dict[str, Any]] = {}
    if known is not None:
        same = chunk.select("sample_id", *CONTENT).join(known, on=["sample_id", *CONTENT], how="inner")
        facts = {row["sample_id"]: {key: row[key] for key in FACTS} for row in same.iter_rows(named=True)}
    todo = [row for row in chunk.iter_rows(named=True) if row["sample_id"] not in facts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: _examine(row, reader, classes), todo))
    facts.update({row["sample_id"]: fact for row, fact in zip(todo, found, strict=True)})
    rows = [{**row, **facts[row["sample_id"]]} for row in chunk.iter_rows(named=True)]
    return pl.DataFrame(rows, schema=MANIFEST_SCHEMA)


def _examine(row: dict[str, Any], reader: Reader, classes: int) -> dict[str, Any]:
    """Decode one sample: its shape and class counts, or the reason why it can't be used."""
    none = {"height": None, "width": None, "class_pixels": [0] * classes, "labelled": False}
    try:
        picture = decode(Path(row["image"]))
        height, width = as_rgb(picture).shape[:2]
        if row["mask"] is None:
            return {**none, "height": height, "width": width, "quarantined": False, "reason": None}
        mask = reader.read_mask(Path(row["mask"]))
        if mask.shape != (height, width):
            raise UnreadableSample(
                f"mask is {mask.shape[1]}×{mask.shape[0]}, its picture {width}×{height}; both need one size"
            )
        if not picture.tells_upright():
            raise UnreadableSample(
                f"{picture.name}: EXIF turns the picture (orientation {picture.orientation}), and the mask's size does "
                "not tell whether it was drawn before or after; save the picture upright"
            )
    except UnreadableSample as reason:
        return {**none, "quarantined": True, "reason": str(reason)}
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[:classes]
    facts = {"height": height, "width": width, "class_pixels": counts.tolist(), "labelled": bool(counts.any())}
    return {**facts, "quarantined": False, "reason": None}
