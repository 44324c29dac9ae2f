"""What all stages' doors share: specs and results in one form, so that a door reads call by call.

Belongs here: Dagster values built from plain ones. Does not: anything of a particular stage.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from resources.sample_store import Change

OWNERS = ["team:domain-gap"]


def spec(
    key: Sequence[str],
    *,
    description: str,
    code_version: str,
    kinds: Sequence[str],
    deps: Sequence[Sequence[str]] = (),
    columns: Mapping[str, Any] | None = None,
    skippable: bool = False,
) -> dg.AssetSpec:
    """An asset's spec; its group is the first part of its key. `columns`: a polars schema."""
    metadata = {"dagster/column_schema": column_schema(columns)} if columns else {}
    return dg.AssetSpec(
        key=dg.AssetKey(list(key)),
        deps=[dg.AssetKey(list(dep)) for dep in deps],
        description=description,
        group_name=key[0],
        code_version=code_version,
        kinds=set(kinds),
        owners=OWNERS,
        metadata=metadata,
        skippable=skippable,
    )


def column_schema(columns: Mapping[str, Any]) -> dg.TableSchema:
    """A polars schema as Dagster shows it."""
    return dg.TableSchema(columns=[dg.TableColumn(name=name, type=str(kind)) for name, kind in columns.items()])


def result(
    key: Sequence[str],
    *,
    version: str,
    change: Change | None = None,
    figures: Mapping[str, float | int | str | None] | None = None,
    plots: Mapping[str, bytes] | None = None,
    sample: pl.DataFrame | None = None,
) -> dg.MaterializeResult[Any]:
    """A materialisation with its data version, row counts, figures as numbers, plots as small PNGs, a few rows."""
    metadata: dict[str, Any] = {}
    if change is not None:
        metadata.update({f"rows_{name}": count for name, count in change.counts().items()})
        metadata["dagster/row_count"] = len(change.stale) + change.kept
    metadata.update({name: value for name, value in (figures or {}).items() if value is not None})
    metadata.update({name: plot(png) for name, png in (plots or {}).items()})
    if sample is not None and not sample.is_empty():
        metadata["rows"] = table(sample)
    return dg.MaterializeResult(
        asset_key=dg.AssetKey(list(key)), data_version=dg.DataVersion(version), metadata=metadata
    )


def plot(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG that Dagster shows in the asset's page."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def table(rows: pl.DataFrame) -> dg.TableMetadataValue:
    """Rows that Dagster shows as a table; nested values as text."""
    records = [
        dg.TableRecord({name: value if isinstance(value, str | int | float | bool) else str(value)
                        for name, value in row.items()})
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    return dg.MetadataValue.table(records, schema=column_schema(dict.fromkeys(rows.columns, "")))
