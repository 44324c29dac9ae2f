"""The explorer's data: every sample on the map with all that it can be coloured, sized and selected by, packed small.

Belongs here: what `explorer.js` reads. Does not: gathering (`gallery.py`), markup, drawing.

Numbers travel as unsigned 16-bit steps between a column's least and greatest value, base64: a value is told to 1 part
in 65,534 of its range, and 5,000 samples with a hundred traits take little more than a megabyte.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.report import figures
from assets.report.document import ReportDocument, SliceRow
from assets.report.evidence import Evidence

STEPS = 65_534
NOTHING = 65_535
"""Stands for a value that is not defined."""
SET_ORDER = {name: code for code, name in enumerate(figures.SETS)}
WORST_SHARE = 0.1


def explorer_data(document: ReportDocument, evidence: Evidence, data_uri: Callable[[bytes], str]) -> dict[str, Any]:
    """All that the explorer shows of the samples in `evidence.latent`; no views where none of them has a place."""
    points = evidence.latent.filter(pl.col("set").is_in(figures.SETS))
    place = {point: row for row, point in enumerate(points.select("set", "sample_id").iter_rows())}
    views = {
        key: {"label": label, "x": packed(points[f"{key}_x"]), "y": packed(points[f"{key}_y"])}
        for key, label in figures.PROJECTIONS.items()
        if np.isfinite(_floats(points[f"{key}_x"])).any()
    }
    groups = points["group"].cast(pl.String).fill_null("").to_list()
    sizes = Counter(groups)
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    rank = {name: i for i, name in enumerate(names)}
    sprites = figures.thumbnail_sprites(points["thumbnail"].to_list() if "thumbnail" in points.columns else [])
    return {
        "id": points["sample_id"].cast(pl.String).to_list(),
        "set": [SET_ORDER[name] for name in points["set"]],
        "group": [rank[name] for name in groups],
        "groups": names,
        "estimated": document.performance_gap.estimated,
        "columns": _columns(document, evidence, points),
        "views": views,
        "regions": [_region(name, rows, place, points.height) for name, rows in evidence.regions.items()],
        "after": _after(document, evidence, place) if "pca" in views else [],
        "presets": _presets(document, points, evidence),
        "tile": sprites.tiles or [-1] * points.height,
        "sheets": [data_uri(sheet) for sheet in sprites.sheets],
        "sheet_columns": sprites.columns,
        "tile_size": sprites.tile_size,
    }


def packed(values: pl.Series) -> dict[str, Any]:
    """A column as `low`, `high` and base64 of little-endian uint16 steps; `NOTHING` where a value is not defined."""
    numbers = _floats(values)
    known = np.isfinite(numbers)
    low, high = (float(numbers[known].min()), float(numbers[known].max())) if known.any() else (0.0, 1.0)
    share = (np.where(known, numbers, low) - low) / ((high - low) or 1.0)
    steps = np.where(known, np.round(share * STEPS), NOTHING).astype("<u2")
    return {"low": low, "high": high, "data": _text(steps)}


def _columns(document: ReportDocument, evidence: Evidence, points: pl.DataFrame) -> list[dict[str, Any]]:
    """Loss, gap score, then the traits, those that differ most first; without those that nothing is known of."""
    loss = "estimated loss" if document.performance_gap.estimated else "loss"
    found = [{"key": "loss", "label": loss, "family": "", **packed(points["loss"])},
             {"key": "gap_score", "label": "gap score", "family": "", **packed(points["gap_score"])}]  # fmt: skip
    joined = points.select("set", "sample_id").join(evidence.measures, on=["set", "sample_id"], how="left")
    ordered = sorted(document.traits, key=lambda trait: -abs(trait.effect_size or 0.0))
    for trait in ordered:
        if trait.name in joined.columns and trait.name != "gap_score":
            family = trait.family.replace("_", " ")
            found.append({"key": trait.name, "label": trait.label, "family": family, **packed(joined[trait.name])})
    return [column for column in found if _known(column)]


def _known(column: dict[str, Any]) -> bool:
    return bool((np.frombuffer(base64.b64decode(column["data"]), "<u2") != NOTHING).any())


def _region(name: str, rows: pl.DataFrame, place: dict[tuple[str, str], int], height: int) -> dict[str, Any]:
    x, y = np.full(height, np.nan), np.full(height, np.nan)
    for side, sample_id, *at in rows.select("set", "sample_id", "x", "y").iter_rows():
        if (side, sample_id) in place:
            x[place[side, sample_id]], y[place[side, sample_id]] = at
    return {"name": name, "x": packed(pl.Series(x)), "y": packed(pl.Series(y))}


def _after(document: ReportDocument, evidence: Evidence, place: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Experiments that moved samples, in the document's order: rows, their places and losses afterwards."""
    found = []
    for number, row in enumerate(document.experiments, start=1):
        moved = evidence.after.get(row.id)
        if moved is None or moved.is_empty():
            continue
        known = moved.with_columns(
            row=pl.Series([place.get(point, -1) for point in moved.select("set", "sample_id").iter_rows()])
        ).filter(pl.col("row") >= 0)
        if known.height:
            found.append({
                "id": row.id, "title": row.title, "verdict": row.verdict, "anchor": f"experiment-{number}",
                "rows": known["row"].to_list(), "x": packed(known["pca_x"]), "y": packed(known["pca_y"]),
                "loss": packed(known["loss"]),
            })  # fmt: skip
    return found


def _presets(document: ReportDocument, points: pl.DataFrame, evidence: Evidence) -> list[dict[str, Any]]:
    """Selections to begin with: the worst samples, slices, clusters, what to label next, suspected labels."""
    target = [(row, name) for row, (side, name) in enumerate(points.select("set", "sample_id").iter_rows())
              if side == "target"]  # fmt: skip
    place = {name: row for row, name in target}
    losses = [(loss, row) for row, loss in enumerate(points["loss"]) if row in place.values() and loss is not None]
    worst = sorted(losses, key=lambda pair: -pair[0])[: max(1, round(WORST_SHARE * len(losses)))] if losses else []
    chosen = document.next_samples.chosen if document.next_samples is not None else []
    named: list[tuple[str, Iterable[int]]] = [
        (f"target samples with the highest tenth of {'estimated ' * document.performance_gap.estimated}losses",
         [row for _, row in worst]),
        *((f"slice: {one.name}", _within(one, evidence.measures, place)) for one in document.slices),
        *((f"cluster of the worst: {one.name}", _rows(one.samples, place)) for one in document.worst_clusters),
        ("to label next", _rows([row.sample_id for row in chosen], place)),
        ("labels to check", _rows([r.sample_id for r in document.label_errors if r.side == "target"], place)),
    ]  # fmt: skip
    found = [{"label": label, "rows": sorted(rows)} for label, rows in named]
    return [preset for preset in found if preset["rows"]]


def _rows(ids: Sequence[str], place: dict[str, int]) -> list[int]:
    return [place[name] for name in ids if name in place]


def _within(one: SliceRow, table: pl.DataFrame, place: dict[str, int]) -> list[int]:
    """Target samples that meet a slice's conditions; none where a trait of them isn't at hand."""
    if any(condition.trait not in table.columns for condition in one.conditions):
        return []
    meets = [pl.col(c.trait) <= c.threshold if c.side == "<=" else pl.col(c.trait) >= c.threshold
             for c in one.conditions]  # fmt: skip
    return _rows(table.filter(pl.col("set") == "target", *meets)["sample_id"].to_list(), place)


def _floats(values: pl.Series) -> NDArray[np.float64]:
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
