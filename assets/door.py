"""What all stages' doors share: specs and results in one form, so that a door reads call by call.

Belongs here: Dagster values built from plain ones. Does not: anything of a particular stage.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from assets.columns import DESCRIPTIONS
from resources.sample_store import Change

OWNERS = ["team:domain-gap"]
REPORTS = "GAP_REPORTS"
"""Environment variable with the address where `domain-gap ui` serves the reports; without it there are no links."""
GROUP_ENDINGS = {
    "experiments": "experiments", "adaptation": "adaptation", "adaptations": "adaptation",
    "verdicts": "report", "recipe_files": "report", "gap_report": "report", "nights": "report",
}  # fmt: skip
"""What the group of a target's asset ends in, by the second part of its key; others are in the target's own."""
SECTIONS = {
    "manifest": "quality", "evaluation": "loss-gap", "hypotheses": "hypotheses-title", "explanation": "causes",
    "causes": "causes", "verdicts": "causes", "experiments": "causes", "recipe_files": "recipe",
    "gap_scores": "latent-gap", "embeddings": "latent-gap", "next_samples": "next", "model_parts": "model-parts",
    "adaptation": "adaptation", "adaptations": "adaptation", "gap_report": "",
}  # fmt: skip
"""The section of the report that an asset's figures end in, by the second part of its key."""


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
    """An asset's spec in its group (see `group_of`). `columns`: a polars schema."""
    metadata: dict[str, Any] = {"dagster/column_schema": column_schema(columns)} if columns else {}
    metadata |= _report_link(key)
    return dg.AssetSpec(
        key=dg.AssetKey(list(key)),
        deps=[dg.AssetKey(list(dep)) for dep in deps],
        description=description,
        group_name=group_of(key),
        code_version=code_version,
        kinds=set(kinds),
        owners=OWNERS,
        metadata=metadata,
        skippable=skippable,
    )


def group_of(key: Sequence[str]) -> str:
    """The group of a key: the data set's, with groups of their own for experiments, adaptations and the answer.

    So the graph reads from left to right when its groups are closed, and no edge leads back into one.
    """
    ending = GROUP_ENDINGS.get(key[1])
    return f"{key[0]}_{ending}" if ending else key[0]


def _report_link(key: Sequence[str]) -> dict[str, Any]:
    address, section = os.environ.get(REPORTS), SECTIONS.get(key[1])
    if not address or section is None or key[0] == "source":
        return {}
    return {"report_section": dg.MetadataValue.url(f"{address}/{key[0]}/report.html{section and '#'}{section}")}


def kind_tags(kind: str) -> dict[str, str]:
    """The tag of a kind, for definitions that take no kinds of their own."""
    return {f"dagster/kind/{kind}": ""}


def lineage(columns: Mapping[str, Sequence[tuple[Sequence[str], str]]]) -> dg.TableColumnLineage:
    """Which columns of other assets (key, column) a column is computed from."""
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(asset_key=dg.AssetKey(list(key)), column_name=column) for key, column in deps]
            for name, deps in columns.items()
        }
    )


def column_schema(columns: Mapping[str, Any]) -> dg.TableSchema:
    """A polars schema as Dagster shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=str(kind), description=DESCRIPTIONS.get(name))
            for name, kind in columns.items()
        ]
    )


def result(
    key: Sequence[str],
    *,
    version: str,
    change: Change | None = None,
    figures: Mapping[str, Any] | None = None,
    plots: Mapping[str, bytes | None] | None = None,
    sample: pl.DataFrame | None = None,
    columns: dg.TableColumnLineage | None = None,
) -> dg.MaterializeResult[Any]:
    """A materialisation: data version, row counts, figures as numbers, small PNGs, a few rows, columns' lineage."""
    metadata: dict[str, Any] = {}
    if change is not None:
        metadata.update({f"rows_{name}": count for name, count in change.counts().items()})
        metadata["dagster/row_count"] = len(change.stale) + change.kept
    metadata.update({name: value for name, value in (figures or {}).items() if value is not None})
    metadata.update({name: plot(png) for name, png in (plots or {}).items() if png is not None})
    if columns is not None:
        metadata["dagster/column_lineage"] = columns
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
