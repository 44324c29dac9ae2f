"""Class lists that lie beside a data set: classes.txt, class_dict.csv, label_colors.txt, Mapillary's config.json.

Belongs here: finding and reading them. Does not: what the classes mean (`known_labels.py`).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resources.datasets.label_map import Table
from resources.datasets.metadata import read_json
from resources.errors import DatasetError

_CALLED = re.compile(r"class|label|colou?r|palette|names|codes|categor|config|ontology|objectinfo", re.IGNORECASE)
_MOST_BYTES = 1 << 20
_MOST_CLASSES = 512
_NAME_KEYS = ("readable", "name", "label", "class", "class_name", "category")
_ID_KEYS = ("id", "index", "idx", "value", "class_id", "label_id", "trainid")
_COLOUR_KEYS = ("color", "colour", "rgb")


def class_tables(folder: Path) -> dict[str, Table]:
    """Tables of the class lists in a folder and in the folders right below it, by the file's name.

    A list with ids and colours gives one table of each. A file that is no class list is passed over.
    """
    found: dict[str, Table] = {}
    for path in sorted([*folder.glob("*.*"), *folder.glob("*/*.*")]):
        if path.suffix.lower() in (".txt", ".csv", ".json") and _CALLED.search(path.stem) and path.is_file():
            for kind, table in _tables(path).items():
                found[f"{path.relative_to(folder).as_posix()} ({kind})"] = table
    return found


def _tables(path: Path) -> dict[str, Table]:
    if path.stat().st_size > _MOST_BYTES:
        return {}
    try:
        rows = list(_rows(path))
    except (OSError, ValueError, DatasetError):
        return {}
    if not 1 < len(rows) <= _MOST_CLASSES:
        return {}
    ids = {row["id"]: row["name"] for row in rows if "id" in row}
    colours = {row["colour"]: row["name"] for row in rows if "colour" in row}
    tables: dict[str, Table] = {"colours": colours} if len(colours) == len(rows) else {}
    if len(ids) == len(rows):
        tables["ids"] = ids
    return tables


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """Rows of 'name' with 'id', 'colour', or both."""
    if path.suffix.lower() == ".json":
        return _json_rows(read_json(path))
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        records = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
        return [_record(record, number) for number, record in enumerate(records)]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [_line(line, number) for number, line in enumerate(lines)]


def _json_rows(value: Any) -> Iterable[dict[str, Any]]:
    if isinstance(value, dict) and isinstance(value.get("labels", value.get("classes")), list | dict):
        value = value.get("labels", value.get("classes"))
    if isinstance(value, list):
        return [_record({"name": one} if isinstance(one, str) else one, number) for number, one in enumerate(value)]
    if not isinstance(value, dict):
        raise ValueError("no list of classes")
    rows = []
    for key, inner in value.items():
        if isinstance(inner, str) and key.isdigit():
            rows.append({"id": int(key), "name": inner})
        elif isinstance(inner, int):
            rows.append({"id": inner, "name": key})
        else:
            rows.append({"colour": _colour(inner), "name": key})
    return rows


def _record(record: Any, number: int) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise ValueError("no record of a class")
    plain = {re.sub(r"\W", "", str(key)).lower(): value for key, value in record.items() if key is not None}
    name = next((str(plain[key]) for key in _NAME_KEYS if plain.get(key)), None)
    if name is None:
        raise ValueError("a class without a name")
    row: dict[str, Any] = {"name": name.strip()}
    own = next((plain[key] for key in _ID_KEYS if str(plain.get(key, "")).strip().isdigit()), None)
    row["id"] = int(own) if own is not None else number
    colour = next((plain[key] for key in _COLOUR_KEYS if plain.get(key)), None)
    if colour is None and all(str(plain.get(channel, "")).strip().isdigit() for channel in "rgb"):
        colour = [plain[channel] for channel in "rgb"]
    if colour is not None:
        row["colour"] = _colour(colour)
    return row


def _line(line: str, number: int) -> dict[str, Any]:
    if numbered := re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:]+(\D.*)", line):
        return {"colour": _colour(numbered.groups()[:3]), "name": numbered[4].strip()}
    if numbered := re.fullmatch(r"(\d+)[\s,:=]+(\D.*)", line):
        return {"id": int(numbered[1]), "name": numbered[2].strip()}
    if re.match(r"[A-Za-z]", line) and len(line) < 40:  # noqa: PLR2004
        return {"id": number, "name": line}
    raise ValueError("no line of a class list")


def _colour(value: Any) -> str:
    if isinstance(value, str):
        found = re.fullmatch(r"#?([0-9A-Fa-f]{6})", value.strip())
        if found:
            return f"#{found[1].upper()}"
        value = json.loads(value) if value.startswith("[") else re.split(r"[\s,]+", value.strip("() "))
    red, green, blue = (int(channel) for channel in list(value)[:3])
    if not all(0 <= channel < 256 for channel in (red, green, blue)):  # noqa: PLR2004
        raise ValueError("no colour")
    return f"#{red:02X}{green:02X}{blue:02X}"
