"""Figures: charts of the page, small PNGs for Dagster's materialisation metadata, sprites of thumbnails.

Belongs here: turning what the document and the evidence hold into something to look at. Charts are drawn with
`charts.py`, which knows scales and marks.
Does not: markup (`page.py`, `templates/`), gathering the evidence, computing what a figure claims.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from markupsafe import Markup

from assets.report import charts
from assets.report.document import AttributionRow, ExperimentRow, ReportDocument, TraitShift
from assets.report.evidence import Evidence
from assets.small_plots import canvas, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import NDArray
    from PIL import Image

Projection = Literal["pca", "map"]
SETS = ("reference", "holdout", "target")
COLOURS = {
    "reference": "#98a2b3",
    "holdout": "#1d5fae",
    "target": "#c2410c",
    "plain": "#667085",
}
"""Of the PNGs; the page has its own in its style sheet, for the light and the dark scheme."""
PROJECTIONS: dict[Projection, str] = {"map": "t-SNE", "pca": "PCA"}

CROWDED = 1_500  # points from which markers are drawn smaller
SIGNIFICANT = 0.05
BEYOND_LATIN = 0x2E80  # the default font of the PNGs ends before CJK and emoji
WATERFALL_ROW = 50
MOST_CLASSES = 6
BINS = 28

Step = Literal["total", "cause", "unexplained"]


# --- the gap, cause by cause -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WaterfallStep:
    """One bar of the waterfall, in loss: from `start` by `value`; `share` is of the whole gap."""

    kind: Step
    label: str
    start: float
    value: float
    share: float
    interval: tuple[float, float] | None


def share_of_gap(experiment: ExperimentRow) -> tuple[float | None, tuple[float, float] | None, str]:
    """The share of the gap an experiment speaks for, its interval, and whether it was closed or induced."""
    if experiment.gap_closed is not None:
        return experiment.gap_closed, experiment.ci95, "closed"
    return experiment.gap_induced, experiment.induced_ci95 or experiment.ci95, "induced"


def leading_experiment(document: ReportDocument, hypothesis: str) -> ExperimentRow | None:
    """The confirmed experiment that speaks for a cause: one that closed the gap before one that only induced it."""
    confirmed = [e for e in document.experiments if e.hypothesis == hypothesis and e.verdict == "confirmed"]
    return max(confirmed, key=lambda e: (e.gap_closed is not None, share_of_gap(e)[0] or 0.0), default=None)


def waterfall_steps(document: ReportDocument) -> list[WaterfallStep]:
    """Total gap, each confirmed family's share, what is left; empty where none is confirmed.

    Shares are Shapley values over all combinations of the families, so the bars lead exactly to what is unexplained.
    """
    gap, unexplained = document.performance_gap, document.unexplained
    total = gap.loss_gap
    shares = [(row, row.share) for row in document.attribution if row.share is not None]
    if total is None or total <= 0 or not gap.detected or not shares:
        return []
    steps = [WaterfallStep("total", "Loss gap", 0.0, total, 1.0, gap.ci95)]
    level = total
    for row, share in shares:
        bounds = None if row.ci95 is None else (-row.ci95[1] * total, -row.ci95[0] * total)
        steps.append(WaterfallStep("cause", _family_label(document, row), level, -share * total, -share, bounds))
        level -= share * total
    if unexplained.value is None:
        return steps
    interval = unexplained.ci95
    bounds = None if interval is None else (interval[0] * total, interval[1] * total)
    rest = unexplained.value * total
    steps.append(WaterfallStep("unexplained", "Unexplained", 0.0, rest, unexplained.value, bounds))
    return steps


def _family_label(document: ReportDocument, row: AttributionRow) -> str:
    """The family and what was confirmed of it: 'Colour: channel histograms'."""
    titles = {experiment.hypothesis: experiment.title for experiment in document.experiments}
    family = row.family.replace("_", " ").capitalize()
    named = f"{family}: {', '.join(titles.get(name, name) for name in row.hypotheses)}"
    return f"{named} (induced)" if row.induced else named


def class_steps(document: ReportDocument) -> list[WaterfallStep]:
    """The gap over pixels, class by class (composition and within together), down to 0; empty where it isn't split.

    The classes that weigh most have a bar each, all others one together, so the bars add up to the gap exactly.
    """
    gap = document.performance_gap
    parts = [(row.name, (row.composition or 0.0) + (row.within or 0.0)) for row in gap.per_class]
    total = sum(value for _, value in parts)
    if not gap.detected or total <= 0 or not any(value for _, value in parts):
        return []
    parts.sort(key=lambda part: -abs(part[1]))
    if len(parts) > MOST_CLASSES + 1:
        rest = parts[MOST_CLASSES:]
        parts = [*parts[:MOST_CLASSES], (f"{len(rest)} other classes", sum(value for _, value in rest))]
    steps = [WaterfallStep("total", "Loss gap over pixels", 0.0, total, 1.0, None)]
    level = total
    for name, value in parts:
        steps.append(WaterfallStep("cause", name, level, -value, -value / total, None))
        level -= value
    return steps


def _shown_share(step: WaterfallStep) -> str:
    """What a cause takes off the gap counts as positive; what is overshot or made worse as negative."""
    share = -step.share if step.kind == "cause" else step.share
    return f"{share:.0%}".replace("-", "−")


def waterfall(steps: Sequence[WaterfallStep]) -> Markup | None:
    """Bars from the whole gap over its parts to what is left, with intervals; None without steps."""
    if not steps:
        return None
    ends = [step.start + step.value for step in steps]
    whiskers = [(s.start + s.interval[0], s.start + s.interval[1]) for s in steps if s.interval is not None]
    low = min([0.0, *ends, *(bound for bound, _ in whiskers)])
    high = max([*ends, *(step.start for step in steps), *(bound for _, bound in whiskers)])
    places = charts.Scale(1.05 * low, high + 0.42 * (high - low), 0.0, 100.0)  # room for the figures at the bars' ends
    foot = WATERFALL_ROW * len(steps) + 4
    ticks = [tick for tick in places.ticks(6) if tick <= high * 1.1]
    rows = [_waterfall_row(step, places, WATERFALL_ROW * i) for i, step in enumerate(steps)]
    axis = charts.axis_across(places, foot, 0, charts.labelled(ticks), "loss")
    label = "Waterfall of the loss gap; its figures are in the table that follows"
    return charts.chart("waterfall", label, foot + 40, axis, *rows)


def _waterfall_row(step: WaterfallStep, places: charts.Scale, top: float) -> Markup:
    end = step.start + step.value
    told = f"{_signed(step.value)}  {_shown_share(step)}"
    name = f"{step.kind} worse" if step.kind == "cause" and step.value > 0 else step.kind
    drawn = [
        charts.text(0, top + 15, charts.shortened(step.label, 46)),
        charts.bar(places(step.start), places(end), top + 21, 20, name, step.value, f"{step.label}: {told} of the gap"),
    ]
    reach = max(step.start, end)
    if step.interval is not None:
        low, high = (step.start + bound for bound in step.interval)
        drawn.append(charts.whisker_across(places(low), places(high), top + 31, "whisker"))
        reach = max(reach, high)
    return charts.join([*drawn, charts.text(places(reach), top + 35, told, "figure", shift=8)])


def gap_waterfall(document: ReportDocument) -> Markup | None:
    """From the gap over the confirmed causes to what is unexplained; None where no cause is confirmed."""
    return waterfall(waterfall_steps(document))


# --- distributions ---------------------------------------------------------------------------------------------------


def shares_by_bin(
    series: Mapping[str, NDArray[np.float64]], bins: int = BINS
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Edges (bins + 1,) and each set's share of samples by bin, in per cent; tails beyond 99% fall into the end bins.

    Values that aren't finite are left out, and so are sets without any; no edges where nothing is left.
    """
    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values.size}
    if not finite:
        return np.empty(0), {}
    low, high = np.percentile(np.concatenate(list(finite.values())), [0.5, 99.5])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts = {name: np.histogram(np.clip(values, low, high), edges)[0] for name, values in finite.items()}
    return edges, {name: 100.0 * counts[name] / finite[name].size for name in finite}


def distribution(
    key: str, label: str, series: Mapping[str, NDArray[np.float64]], unit: str = "", height: int = 150
) -> Markup | None:
    """Step densities of one quantity in several sets, on shared bins; None without values."""
    edges, shares = shares_by_bin(series)
    if not shares:
        return None
    foot, top = height - (38 if unit else 20), 14
    places = charts.Scale(float(edges[0]), float(edges[-1]), 0.0, 100.0)
    most = max(float(values.max()) for values in shares.values())
    heights = charts.Scale(0.0, most, foot, top)
    field = charts.stretched(top, foot - top, _steps(shares, foot - top, most))
    across = charts.axis_across(places, foot, foot, charts.labelled(places.ticks(5)), unit)
    up = charts.axis_up(heights, charts.labelled(heights.ticks(3), "%"))
    return charts.chart(key, label, height, across, up, field)


def sparkline(series: Mapping[str, NDArray[np.float64]], label: str) -> Markup | None:
    """The same without axes, for a cell of a table."""
    _, shares = shares_by_bin(series, bins=20)
    if not shares:
        return None
    most = max(float(values.max()) for values in shares.values())
    return charts.chart("spark", label, 26, charts.stretched(0, 26, _steps(shares, 26, most)))


def _steps(shares: Mapping[str, NDArray[np.float64]], height: float, most: float) -> list[Markup]:
    drawn = []
    for name, values in shares.items():
        width = 1000 / values.size
        ys = [height * (1 - float(value) / most) for value in values]
        points = [(x, y) for i, y in enumerate(ys) for x in (i * width, (i + 1) * width)]
        kind = "after" if name.startswith("after") else name
        if kind == "target":
            drawn.append(charts.path(points, "area target", closed_at=height))
        drawn.append(charts.path(points, f"step {kind}"))
    return drawn


def loss_distribution(evidence: Evidence) -> Markup | None:
    """Per-sample loss of holdout and target; None without labels on both sides."""
    series = {name: _column(evidence.latent.filter(pl.col("set") == name), "loss") for name in ("holdout", "target")}
    if any(not np.isfinite(values).any() for values in series.values()):
        return None
    label = "Distribution of the loss over samples, holdout and target"
    return distribution("losses", label, series, unit="loss of a sample", height=230)


def trait_series(evidence: Evidence, trait: str, after: str | None = None) -> dict[str, NDArray[np.float64]]:
    """One trait's values in holdout and target and, given a hypothesis, after its experiment."""
    rows = evidence.traits.filter(pl.col("trait") == trait)
    names = ["holdout", "target"] + ([f"after:{after}"] if after is not None else [])
    series = {name: _column(rows.filter(pl.col("set") == name), "value") for name in names}
    return {name: values for name, values in series.items() if values.size}


def traits_after(evidence: Evidence, hypothesis: str) -> list[str]:
    """The traits that were measured again after a hypothesis' experiment."""
    rows = evidence.traits.filter(pl.col("set") == f"after:{hypothesis}")
    return [str(name) for name in rows["trait"].unique(maintain_order=True)]


# --- thumbnails ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sprites:
    """Thumbnails packed into few JPEGs: `tiles[i]` is the place of thumbnail i (sheet · columns² + cell), or -1."""

    sheets: list[bytes]
    tiles: list[int]
    columns: int
    tile_size: tuple[int, int]


SPRITE_COLUMNS = 16
SPRITE_LADDER = ((176, 74), (144, 70), (120, 66), (96, 62), (80, 55), (64, 50), (48, 45))  # width, JPEG quality


def thumbnail_sprites(thumbnails: Sequence[bytes | None], budget: int = 4_500_000) -> Sprites:
    """Pack thumbnails into sheets of at most `budget` bytes in all: equal pictures once, as large as fits."""
    unique: dict[bytes, int] = {}
    tiles = [-1 if picture is None else unique.setdefault(picture, len(unique)) for picture in thumbnails]
    pictures = [_decoded(picture) for picture in unique]
    ratios = [p.height / p.width for p in pictures if p is not None]
    if not ratios:
        return Sprites([], [-1] * len(tiles), SPRITE_COLUMNS, (1, 1))
    ratio = float(np.clip(np.median(ratios), 0.3, 1.5))
    widest = max(p.width for p in pictures if p is not None)
    sheets: list[bytes] = []
    size = (1, 1)
    for width, quality in SPRITE_LADDER:
        if width > widest and (width, quality) != SPRITE_LADDER[-1] and width > SPRITE_LADDER[-1][0]:
            width = widest  # noqa: PLW2901 -- never larger than the thumbnails are
        size = (width, max(1, round(width * ratio)))
        sheets = _packed(pictures, size, quality)
        if sum(map(len, sheets)) <= budget:
            break
    broken = {i for i, picture in enumerate(pictures) if picture is None}
    return Sprites(sheets, [-1 if tile in broken else tile for tile in tiles], SPRITE_COLUMNS, size)


def _decoded(picture: bytes) -> Image.Image | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.draft("RGB", (256, 256))
            image.thumbnail((256, 256))
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None


def _packed(pictures: Sequence[Image.Image | None], size: tuple[int, int], quality: int) -> list[bytes]:
    from PIL import Image

    width, height = size
    cells = SPRITE_COLUMNS**2
    sheets = []
    for start in range(0, len(pictures), cells):
        part = pictures[start : start + cells]
        rows = math.ceil(len(part) / SPRITE_COLUMNS)
        sheet = Image.new("RGB", (SPRITE_COLUMNS * width, rows * height))
        for cell, picture in enumerate(part):
            if picture is not None:
                place = (cell % SPRITE_COLUMNS * width, cell // SPRITE_COLUMNS * height)
                sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), place)
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        sheets.append(buffer.getvalue())
    return sheets


# --- PNGs for Dagster ------------------------------------------------------------------------------------------------


def png_latent_map(points: pl.DataFrame, title: str = "Latent map") -> bytes:
    """`points` with columns set and x, y (or map_x, map_y, as in the evidence), as a PNG of less than 100 kB."""
    x, y = ("x", "y") if "x" in points.columns else ("map_x", "map_y")
    figure, axes = _titled(title)
    for name in SETS:
        part = points.filter(pl.col("set") == name)
        if part.height:
            axes.scatter(
                _column(part, x),
                _column(part, y),
                s=12 if points.height > CROWDED else 20,
                c=COLOURS[name],
                marker="s" if name == "holdout" else "o",
                alpha=0.5 if name == "reference" else 0.75,
                linewidths=0,
                label=f"{name} ({part.height:,})",
            )
    axes.set_xticks([])
    axes.set_yticks([])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    return png(figure)


def png_trait_shifts(traits: Sequence[TraitShift], limit: int = 12, title: str = "Trait shifts (Hedges' g)") -> bytes:
    """The largest trait shifts; grey where the shift isn't significant (q > 0.05). A PNG of less than 100 kB."""
    figure, axes = _titled(title)
    known = [(t, t.effect_size) for t in traits if t.effect_size is not None]
    known = sorted(known, key=lambda pair: -abs(pair[1]))[:limit]
    if not known:
        axes.text(0.5, 0.5, "no trait has an effect size", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return png(figure)
    for row, (trait, effect) in enumerate(known):
        significant = trait.q_value is not None and trait.q_value <= SIGNIFICANT
        axes.barh(row, effect, color=COLOURS["target"] if significant else COLOURS["reference"], height=0.62)
    _name_rows(axes, [trait.label for trait, _ in known])
    axes.axvline(0, color=COLOURS["plain"], linewidth=0.8)
    axes.set_xlabel("target against holdout, in standard deviations", fontsize=9)
    return png(figure)


def _titled(title: str) -> tuple[MatplotlibFigure, Axes]:
    figure = canvas(640, 360)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_title(_drawable(title, 70), fontsize=11, loc="left", parse_math=False)
    return figure, axes


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [_drawable(label, 32) for label in labels], parse_math=False)
    axes.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


# --- small things ----------------------------------------------------------------------------------------------------


def _column(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return frame[name].cast(pl.Float64).fill_null(math.nan).to_numpy()


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _drawable(text: str, length: int) -> str:
    """What the default font can draw on one line."""
    printable = "".join(c if c.isprintable() and ord(c) < BEYOND_LATIN else "□" for c in " ".join(text.split()))
    return charts.shortened(printable, length)
