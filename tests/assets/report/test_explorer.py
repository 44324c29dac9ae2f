"""The explorer's data: columns come back as they went in, rows keep their samples, selections are what they say."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.report.explorer import NOTHING, packed


def unpacked(column: dict[str, Any]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(column["data"]), "<u2").astype(float)
    values = column["low"] + steps / 65_534 * (column["high"] - column["low"])
    return np.where(steps == NOTHING, np.nan, values)


@pytest.mark.parametrize("values", [[-3.25, 0.0, 17.5, None], [2.0, 2.0], [None, None], [float("nan"), 1e-7], []])
def test_columns_come_back_to_a_part_of_their_range(values: list[float | None]) -> None:
    column = pl.Series(values, dtype=pl.Float64)
    wanted = column.fill_null(float("nan")).to_numpy()
    spread = np.nan_to_num(np.nanmax(wanted) - np.nanmin(wanted)) if np.isfinite(wanted).any() else 0
    np.testing.assert_allclose(unpacked(packed(column)), wanted, atol=spread / 65_534, equal_nan=True)
