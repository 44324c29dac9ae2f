"""Figures: Plotly figures for the page, small PNGs for Dagster's materialisation metadata, sprites of thumbnails.

Belongs here: turning what the document and the evidence hold into something to look at. Figures are plain dicts that
Plotly accepts, in the colours of the light theme; the page swaps `LIGHT` for `DARK`.
Does not: markup (`page.py`, `templates/`), gathering the evidence, computing what a figure claims.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from assets.report.document import AttributionRow, ExperimentRow, ReportDocument, TraitShift
from assets.report.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import NDArray
    from PIL import Image

Figure = dict[str, Any]

Projection = Literal["pca", "map"]
SETS = ("reference", "holdout", "target")
LIGHT = {
    "reference": "#98a2b3",
    "holdout": "#1d5fae",
    "target": "#c2410c",
    "after": "#0f766e",
    "plain": "#667085",
    "ink": "#17202e",
}
DARK = {
    "reference": "#6b7688",
    "holdout": "#6cb0f7",
    "target": "#fb8c4a",
    "after": "#3fc4b0",
    "plain": "#98a2b3",
    "ink": "#e6eaf0",
}
PROJECTIONS: dict[Projection, str] = {"map": "t-SNE", "pca": "PCA"}
SYMBOLS = {"reference": "circle-open", "holdout": "square", "target": "circle"}

MAX_POINTS = 10_000  # what a browser draws as SVG without stalling; WebGL needs eval, which the page forbids
MAX_PNG_BYTES = 100_000
CROWDED = 1_500  # points from which markers are drawn smaller
SIGNIFICANT = 0.05
BEYOND_LATIN = 0x2E80  # the default font of the PNGs ends before CJK and emoji

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


def waterfall_height(steps: int) -> int:
    """Pixels that a waterfall of so many bars takes."""
    return 54 + 52 * steps


def _shown_share(step: WaterfallStep) -> str:
    """What a cause takes off the gap counts as positive; what is overshot or made worse as negative."""
    share = -step.share if step.kind == "cause" else step.share
    return f"{share:.0%}".replace("-", "−")


def gap_waterfall(document: ReportDocument) -> Figure | None:
    """The waterfall as a figure of horizontal bars, or None where no cause is confirmed."""
    steps = waterfall_steps(document)
    if not steps:
        return None
    colours: dict[Step, str] = {
        "total": LIGHT["target"],
        "cause": LIGHT["after"],
        "unexplained": LIGHT["plain"],
    }
    names = [_shortened(step.label, 44) for step in steps]
    ends = [step.start + step.value for step in steps]
    low = [0.0 if s.interval is None else s.value - s.interval[0] for s in steps]
    high = [0.0 if s.interval is None else s.interval[1] - s.value for s in steps]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(steps))),
        "x": [rounded(step.value) for step in steps],
        "base": [rounded(step.start) for step in steps],
        "marker": {
            "color": [colours[step.kind] for step in steps],
            "pattern": {"shape": ["/" if s.kind == "unexplained" else "" for s in steps], "size": 7, "solidity": 0.35},
        },
        "text": [f"{_signed(s.value)} · {_shown_share(s)}" for s in steps],
        "textposition": "none",
        "hovertemplate": "%{text} of the gap<extra></extra>",
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [rounded(max(h, 0.0)) for h in high],
            "arrayminus": [rounded(max(v, 0.0)) for v in low],
            "color": LIGHT["ink"],
            "thickness": 1.2,
            "width": 4,
        },
        "width": 0.44,
    }
    reach = max([*ends, *(s.start + s.interval[1] for s in steps if s.interval), *(s.start for s in steps)])
    floor = min([0.0, *ends, *(s.start + s.interval[0] for s in steps if s.interval)])
    names_above = [
        {
            "x": 0,
            "y": i - 0.3,
            "xref": "paper",
            "yanchor": "bottom",
            "text": escaped(name),
            "showarrow": False,
            "xanchor": "left",
            "font": {"size": 12},
        }
        for i, name in enumerate(names)
    ]
    annotations = [
        {
            "x": rounded(max(s.start, e, 0.0 if s.interval is None else s.start + s.interval[1])),
            "y": i,
            "xshift": 8,
            "text": f"<b>{_signed(s.value)}</b>  {_shown_share(s)}",
            "showarrow": False,
            "xanchor": "left",
            "font": {"size": 12},
        }
        for i, (s, e) in enumerate(zip(steps, ends, strict=True))
    ]
    layout = plain_layout(height=waterfall_height(len(steps)), margin={"l": 12, "r": 8, "t": 4, "b": 42})
    layout["xaxis"] |= {
        "title": {"text": "loss", "standoff": 8},
        "range": [rounded(1.1 * floor), rounded(reach + 0.4 * (reach - floor))],
        "zeroline": True,
    }
    layout["yaxis"] |= {
        "showticklabels": False,
        "range": [len(steps) - 0.65, -0.75],
        "showgrid": False,
    }
    layout["annotations"] = names_above + annotations
    return {"data": [trace], "layout": layout}


# --- distributions ---------------------------------------------------------------------------------------------------


def distribution(
    series: Mapping[str, NDArray[np.float64]], unit: str = "", bins: int = 28, height: int = 168
) -> Figure:
    """Step densities of one quantity in several sets, on shared bins; tails beyond 99% fall into the end bins."""
    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values.size}
    layout = plain_layout(height=height, margin={"l": 40, "r": 8, "t": 8, "b": 36 if unit else 26})
    if not finite:
        return {"data": [], "layout": layout}
    low, high = np.percentile(np.concatenate(list(finite.values())), [0.5, 99.5])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    traces = []
    for name, values in finite.items():
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        shares = 100.0 * counts / values.size
        colour = LIGHT["after"] if name.startswith("after") else LIGHT.get(name, LIGHT["plain"])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "after" if name.startswith("after") else name,
                "x": [rounded(float(x)) for x in edges],
                "y": [round(float(y), 2) for y in [*shares, shares[-1]]],
                "line": {
                    "color": colour,
                    "width": 1.8,
                    "shape": "hv",
                    "dash": "solid" if name == "target" else "dot" if name.startswith("after") else "dash",
                },
                "fill": "tozeroy" if name == "target" else "none",
                "fillcolor": _faded(colour, 0.16),
                "hovertemplate": "%{y:.1f}% at %{x:.3g}",
            }
        )
    layout["xaxis"] |= {"fixedrange": True, "nticks": 6}
    layout["yaxis"] |= {"fixedrange": True, "rangemode": "tozero", "ticksuffix": "%", "nticks": 4}
    if unit:
        layout["xaxis"]["title"] = {"text": escaped(unit), "standoff": 4}
    layout["hovermode"] = "x"
    return {"data": traces, "layout": layout}


def loss_distribution(evidence: Evidence) -> Figure | None:
    """Per-sample loss of holdout and target; None without labels on both sides."""
    series = {name: _column(evidence.latent.filter(pl.col("set") == name), "loss") for name in ("holdout", "target")}
    if any(not np.isfinite(values).any() for values in series.values()):
        return None
    return distribution(series, unit="loss of a sample", height=240)


def trait_distribution(evidence: Evidence, trait: str, after: str | None = None) -> Figure | None:
    """One trait in holdout and target and, given a hypothesis, after its experiment; None without values."""
    rows = evidence.traits.filter(pl.col("trait") == trait)
    names = ["holdout", "target"] + ([f"after:{after}"] if after is not None else [])
    series = {name: _column(rows.filter(pl.col("set") == name), "value") for name in names}
    if not any(values.size for values in series.values()):
        return None
    return distribution(series)


def traits_after(evidence: Evidence, hypothesis: str) -> list[str]:
    """The traits that were measured again after a hypothesis' experiment."""
    rows = evidence.traits.filter(pl.col("set") == f"after:{hypothesis}")
    return [str(name) for name in rows["trait"].unique(maintain_order=True)]


# --- the latent map --------------------------------------------------------------------------------------------------


def drawn_points(latent: pl.DataFrame, limit: int = MAX_POINTS) -> pl.DataFrame:
    """The rows that the map draws: all of them, or an even pick of each set where there are more than `limit`."""
    known = latent.filter(pl.col("set").is_in(SETS))
    if known.height <= limit:
        return known
    parts = []
    for name in SETS:
        rows = known.filter(pl.col("set") == name)
        keep = math.ceil(limit * rows.height / known.height)
        if rows.height:
            parts.append(rows[np.unique(np.linspace(0, rows.height - 1, keep).round().astype(int)).tolist()])
    drawn: pl.DataFrame = pl.concat(parts)
    return drawn


def has_projection(latent: pl.DataFrame, projection: Projection) -> bool:
    """Whether the points have coordinates in that projection."""
    return bool(np.isfinite(_column(latent, f"{projection}_x")).any())


def latent_map(points: pl.DataFrame, projection: Projection = "map") -> Figure:
    """The samples in two dimensions: one trace a set, each with a shape of its own; `customdata` is the row."""
    traces = []
    for name in SETS:
        rows = np.flatnonzero((points["set"] == name).to_numpy())
        part = points[rows.tolist()]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": _coordinates(part, f"{projection}_x"),
                "y": _coordinates(part, f"{projection}_y"),
                "customdata": rows.tolist(),
                "hoverinfo": "none",
                "marker": {
                    "color": LIGHT[name],
                    "size": 6 if points.height > CROWDED else 8,
                    "symbol": SYMBOLS[name],
                    "opacity": 0.55 if name == "reference" else 0.78,
                },
            }
        )
    layout = plain_layout(height=520, margin={"l": 8, "r": 8, "t": 8, "b": 8})
    axis = {"showticklabels": False, "ticks": "", "zeroline": False, "showgrid": False, "title": {"text": ""}}
    layout["xaxis"] |= axis
    layout["yaxis"] |= axis
    layout["hovermode"] = "closest"
    layout["dragmode"] = "pan"
    return {"data": traces, "layout": layout}


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
    figure, axes = _canvas(title)
    for name in SETS:
        part = points.filter(pl.col("set") == name)
        if part.height:
            axes.scatter(
                _column(part, x),
                _column(part, y),
                s=12 if points.height > CROWDED else 20,
                c=LIGHT[name],
                marker="s" if name == "holdout" else "o",
                alpha=0.5 if name == "reference" else 0.75,
                linewidths=0,
                label=f"{name} ({part.height:,})",
            )
    axes.set_xticks([])
    axes.set_yticks([])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def png_trait_shifts(traits: Sequence[TraitShift], limit: int = 12, title: str = "Trait shifts (Hedges' g)") -> bytes:
    """The largest trait shifts; grey where the shift isn't significant (q > 0.05). A PNG of less than 100 kB."""
    figure, axes = _canvas(title)
    known = [(t, t.effect_size) for t in traits if t.effect_size is not None]
    known = sorted(known, key=lambda pair: -abs(pair[1]))[:limit]
    if not known:
        axes.text(0.5, 0.5, "no trait has an effect size", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return _png(figure)
    for row, (trait, effect) in enumerate(known):
        significant = trait.q_value is not None and trait.q_value <= SIGNIFICANT
        axes.barh(row, effect, color=LIGHT["target"] if significant else LIGHT["reference"], height=0.62)
    _name_rows(axes, [trait.label for trait, _ in known])
    axes.axvline(0, color=LIGHT["plain"], linewidth=0.8)
    axes.set_xlabel("target against holdout, in standard deviations", fontsize=9)
    return _png(figure)


def _canvas(title: str) -> tuple[MatplotlibFigure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
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


def _png(figure: MatplotlibFigure) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    for colours in (256, 64, 16):
        if buffer.tell() < MAX_PNG_BYTES:
            break
        image = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB").quantize(colours)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# --- small things ----------------------------------------------------------------------------------------------------


def plain_layout(height: int, margin: dict[str, int]) -> Figure:
    """What all figures of the page share."""
    return {
        "height": height,
        "margin": margin,
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12},
        "xaxis": {"zeroline": False, "fixedrange": False},
        "yaxis": {"zeroline": False, "fixedrange": False},
    }


def _column(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return frame[name].cast(pl.Float64).fill_null(math.nan).to_numpy()


def _coordinates(frame: pl.DataFrame, name: str) -> list[float | None]:
    return [rounded(float(value)) if math.isfinite(value) else None for value in _column(frame, name)]


def rounded(value: float) -> float:
    """Five digits are more than a screen shows."""
    return float(f"{value:.5g}")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _faded(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def escaped(text: str) -> str:
    """Plotly reads a few HTML tags and entities in texts; names from the data are no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _drawable(text: str, length: int) -> str:
    """What the default font can draw on one line."""
    printable = "".join(c if c.isprintable() and ord(c) < BEYOND_LATIN else "□" for c in " ".join(text.split()))
    return _shortened(printable, length)
