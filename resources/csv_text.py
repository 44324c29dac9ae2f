"""CSV files that people open in a spreadsheet.

Belongs here: how cells are written. Does not: which columns a file has (each list decides).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DIGITS = 4
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so."""


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV: floats to a few digits; a text that a spreadsheet would run gets an apostrophe."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _safe(row[name]) for name in columns})
    return buffer.getvalue()


def _safe(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
