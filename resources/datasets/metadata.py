"""Side information about samples: weather, speed, camera, whatever a team noted down.

Belongs here: reading it from one table, or from a JSON file a sample, as numbers and texts.
Does not: what it means for a gap.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from resources.datasets.base import SampleFile
from resources.errors import DatasetError

Values = dict[str, float | str]

MAX_BYTES = 1 << 30
"""Above this a table is no list of frames: a line for each of ten million fits."""

MAX_DEPTH = 32

KEY_COLUMNS = ("sample_id", "name", "filename")


def read_metadata(path: Path) -> dict[str, Values]:
    """A table of .csv, .parquet or .json as values by sample, keyed as its `sample_id`, `name` or `filename` says.

    Of a `filename` the stem is taken. JSON is a list of records, or a mapping of such keys to records; nested values
    get dotted names. Raises DatasetError naming the file and what was expected.
    """
    readers = {".csv": _csv_records, ".parquet": _parquet_records, ".json": _json_records}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise DatasetError(f"{path}: metadata of kind {path.suffix!r}; expected .csv, .parquet or .json")
    _check_size(path)
    table: dict[str, Values] = {}
    for record in read(path):
        key, values = _keyed(record, path)
        if key in table:
            raise DatasetError(f"{path}: two records of sample {key!r}; expected one, by 'sample_id' where names recur")
        table[key] = values
    return table


def metadata_of(path: Path | None, samples: Iterable[SampleFile]) -> dict[str, Values]:
    """Each sample's values from the table at `path`, found by its id, its name or its picture's stem; else {}."""
    table = read_metadata(path) if path is not None else {}
    return {
        sample.sample_id: table.get(sample.sample_id) or table.get(sample.name) or table.get(sample.image.stem) or {}
        for sample in samples
    }


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises DatasetError naming the file."""
    _check_size(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise DatasetError(f"{path}: not readable as JSON: nested too deeply; expected a few levels") from None


def flat(value: Any, name: str = "") -> Values:
    """The leaves of a nested value by dotted name; what is missing or not finite is left out.

    Raises DatasetError for a value that is nested beyond reason.
    """
    if name.count(".") > MAX_DEPTH:
        raise DatasetError(f"metadata: {name[:40]!r}…: nested more than {MAX_DEPTH} levels deep; expected a few")
    if isinstance(value, dict):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        leaf = _leaf(value)
        return {} if leaf is None else {name: leaf}
    return {
        dotted: leaf for key, inner in items for dotted, leaf in flat(inner, f"{name}.{key}" if name else key).items()
    }


def _leaf(value: Any) -> float | str | None:
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return _finite(value)
    return str(value)


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise DatasetError(f"{path}: {size:,} bytes; expected at most {MAX_BYTES:,} of side information")


def _keyed(record: dict[str, Any], path: Path) -> tuple[str, Values]:
    column = next((name for name in KEY_COLUMNS if record.get(name) not in (None, "")), None)
    if column is None:
        raise DatasetError(
            f"{path}: a record without sample; expected a column {', '.join(KEY_COLUMNS[:-1])} or {KEY_COLUMNS[-1]}, "
            f"got {', '.join(map(str, record)) or 'none'}"
        )
    key = str(record[column])
    values = {name: value for name, value in record.items() if name != column}
    return PurePath(key).stem if column == "filename" else key, flat(values)


def _csv_records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            for row in csv.DictReader(file, strict=True):
                if None in row:
                    raise DatasetError(f"{path}: a row has more fields than the header: {row}")
                # Keys stay texts: '000012' is a name, not a number.
                yield {name: text if name in KEY_COLUMNS else _number_or_text(text) for name, text in row.items()}
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path}: not readable as CSV: {error}; expected UTF-8 with a header line") from None


def _number_or_text(text: str | None) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _parquet_records(path: Path) -> list[dict[str, Any]]:
    import polars as pl

    try:
        return pl.read_parquet(path).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DatasetError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from None


def _json_records(path: Path) -> list[dict[str, Any]]:
    raw = read_json(path)
    records = (
        [{"sample_id": key, **_record(value, path)} for key, value in raw.items()] if isinstance(raw, dict) else raw
    )
    if not isinstance(records, list):
        raise DatasetError(f"{path}: expected a list of records or a mapping by sample, got {type(raw).__name__}")
    return [_record(record, path) for record in records]


def _record(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: expected records (mappings of names to values), got {value!r:.80}")
    return value
