"""Figures: what the waterfall adds up to, where bars lie, how small PNGs and sprites stay."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.report import charts, figures
from assets.report import document as d
from assets.report.evidence import Evidence

RNG = np.random.default_rng(11)


def experiment(name: str, verdict: str = "confirmed", **values: Any) -> d.ExperimentRow:
    return d.ExperimentRow(
        id=name,
        hypothesis=name,
        family="colour",
        title=name.title(),
        direction=values.pop("direction", "normalise"),
        verdict=verdict,  # type: ignore[arg-type]
        reason="",
        **values,
    )


def document(**changes: Any) -> d.ReportDocument:
    side = d.DatasetSummary(name="a", reader="folder", samples=9, labelled=9, quarantined=0, groups=1, parts={})
    values: dict[str, Any] = {
        "headline": "",
        "source": side,
        "target": side,
        "model": d.ModelSummary(
            architecture="Unet", encoder="x", fingerprint="f", trained_here=True, classes=["road"], input_size=(8, 8)
        ),
        "performance_gap": d.PerformanceGap(
            source_loss=0.4, target_loss=0.8, loss_gap=0.4, ci95=(0.3, 0.5), detected=True
        ),
        "latent_gap": {},
        "traits": [],
        "hypotheses": [],
        "experiments": [
            experiment("haze", gap_closed=0.5, ci95=(0.4, 0.6)),
            experiment("blur", direction="imitate", gap_induced=0.25, ci95=(0.1, 0.4)),
            experiment("noise", "refuted", gap_closed=0.9, ci95=(0.8, 1.0)),
        ],
        "root_causes": ["haze", "blur"],
        "attribution": [
            d.AttributionRow(family="haze", hypotheses=["haze"], share=0.45, ci95=(0.4, 0.6)),
            d.AttributionRow(family="sharp_ness", hypotheses=["blur"], share=0.2, ci95=(0.1, 0.4), induced=True),
        ],
        "unexplained": d.Estimate(value=0.35, ci95=(0.2, 0.5)),
        "recipe": d.Recipe(),
        "counts": {},
    }
    return d.ReportDocument(**values | changes)


def evidence(count: int = 60) -> Evidence:
    frame = pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(count)],
            "set": [figures.SETS[i % 3] for i in range(count)],
            "group": ["g"] * count,
            "loss": [None if i % 7 == 0 else float(v) for i, v in enumerate(RNG.gamma(3, 0.2, count))],
            "gap_score": RNG.random(count),
            **{name: RNG.normal(size=count) for name in ("pca_x", "pca_y", "map_x", "map_y")},
            "thumbnail": [None] * count,
        },
        schema_overrides={"loss": pl.Float64, "thumbnail": pl.Binary},
    )
    traits = pl.DataFrame(
        {
            "trait": ["sharp"] * 90,
            "set": ["holdout"] * 30 + ["target"] * 30 + ["after:haze"] * 30,
            "value": RNG.normal(size=90),
        }
    )
    return Evidence(frame, traits, [], {}, "")


def test_waterfall_ends_at_what_is_unexplained() -> None:
    steps = figures.waterfall_steps(document())
    assert [step.kind for step in steps] == ["total", "cause", "cause", "unexplained"]
    assert [step.label for step in steps[1:3]] == ["Haze: Haze", "Sharp ness: Blur (induced)"]
    assert sum(step.value for step in steps[:-1]) == pytest.approx(steps[-1].value)
    assert steps[-1].value == pytest.approx(0.35 * 0.4)
    for before, after in itertools.pairwise(steps[:-1]):
        assert after.start == pytest.approx(before.start + before.value)
    assert steps[1].interval == pytest.approx((-0.24, -0.16))


def test_a_share_below_zero_rises_and_one_that_is_not_defined_has_no_bar() -> None:
    rows = [
        d.AttributionRow(family="haze", hypotheses=["haze"], share=-0.1, ci95=(-0.3, 0.1)),
        d.AttributionRow(family="noise", hypotheses=["noise"], share=None),
    ]
    steps = figures.waterfall_steps(document(attribution=rows, unexplained=d.Estimate(value=1.1)))
    assert [step.kind for step in steps] == ["total", "cause", "unexplained"]
    assert steps[1].value == pytest.approx(0.04)
    assert steps[2].value == pytest.approx(0.44)


def test_shares_are_shown_with_their_signs() -> None:
    rows = [d.AttributionRow(family="haze", hypotheses=["haze"], share=1.07, ci95=(0.9, 1.2))]
    over = figures.gap_waterfall(document(attribution=rows, unexplained=d.Estimate(value=-0.07)))
    told = [text.split("  ")[1] for text in words(over, "figure")]
    assert told == ["100%", "107%", "−7%"]


def test_bars_lie_where_their_figures_say() -> None:
    drawn = figures.gap_waterfall(document())
    assert drawn is not None
    drawn_bars = ElementTree.fromstring(drawn).iter("rect")
    bars = [[float(bar.get(name, "").rstrip("%")) for name in ("x", "width", "data-value")] for bar in drawn_bars]
    total, first, second, rest = bars
    assert [value for *_, value in bars] == pytest.approx([0.4, -0.18, -0.08, 0.14])
    assert [width / total[1] for _, width, _ in bars] == pytest.approx([1, 0.45, 0.2, 0.35], abs=1e-3)
    assert first[0] + first[1] == pytest.approx(total[0] + total[1], abs=0.02), "a cause starts where the gap ends"
    assert second[0] == pytest.approx(rest[0] + rest[1], abs=0.02), "and the last one leads to what is left"


def test_names_cannot_leave_a_chart() -> None:
    hostile = [experiment("haze", gap_closed=0.5, ci95=(0.4, 0.6)).model_copy(update={"title": '<script>&"x'})]
    drawn = figures.gap_waterfall(document(experiments=hostile))
    assert drawn is not None and "<script" not in drawn
    assert 'Haze: <script>&"x' in words(drawn)


def test_the_gap_over_pixels_falls_class_by_class_to_nothing() -> None:
    empty = dict.fromkeys(("source_iou", "target_iou", "source_loss", "target_loss", "source_share", "target_share"))
    parts = [(f"class {i}", 0.01 * i, -0.002 * i if i % 2 else 0.05) for i in range(9)]
    rows = [d.ClassGap(name=name, composition=one, within=two, **empty) for name, one, two in parts]
    gap = d.PerformanceGap(loss_gap=0.4, ci95=(0.3, 0.5), detected=True, per_class=rows)
    steps = figures.class_steps(document(performance_gap=gap))
    whole = sum(one + two for _, one, two in parts)
    assert steps[0].value == pytest.approx(whole) and len(steps) == 2 + figures.MOST_CLASSES
    assert steps[-1].label == "3 other classes"
    assert sum(step.value for step in steps) == pytest.approx(0, abs=1e-12)
    assert steps[1].share == pytest.approx(-(0.08 + 0.05) / whole), "the heaviest first"
    assert figures.class_steps(document(performance_gap=d.PerformanceGap(loss_gap=0.1, detected=False))) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"attribution": []},
        {"performance_gap": d.PerformanceGap(reason="no labels")},
        {"performance_gap": d.PerformanceGap(loss_gap=0.01, ci95=(-0.1, 0.1), detected=False)},
    ],
)
def test_no_waterfall_where_nothing_is_confirmed(changes: dict[str, Any]) -> None:
    assert figures.gap_waterfall(document(**changes)) is None


def test_a_cause_is_shown_by_what_it_closed_before_what_it_induced() -> None:
    both = [
        experiment("haze", gap_closed=0.1, ci95=(0.05, 0.2)),
        experiment("haze", direction="imitate", gap_induced=0.9, ci95=(0.8, 1.0)),
    ]
    chosen = figures.leading_experiment(document(experiments=both), "haze")
    assert chosen is not None
    assert figures.share_of_gap(chosen) == (0.1, (0.05, 0.2), "closed")


def words(drawn: str | None, name: str | None = None) -> list[str]:
    """Texts of a chart, of one class where a name is given."""
    found = ElementTree.fromstring(drawn or "<svg/>").iter("text")
    return [text.text or "" for text in found if name is None or text.get("class") == name]


def test_every_chart_says_what_it_is() -> None:
    seen = evidence()
    series = figures.trait_series(seen, "sharp", after="haze")
    drawn = [figures.gap_waterfall(document()), figures.loss_distribution(seen), figures.sparkline(series, "Sharp"),
             figures.distribution("trait-sharp", "Sharp", series)]  # fmt: skip
    for chart in drawn:
        root = ElementTree.fromstring(chart or "")
        assert root.get("role") == "img" and root.get("aria-label")
    assert figures.distribution("x", "x", {}) is None and figures.sparkline({}, "x") is None


def test_every_sample_is_counted_once() -> None:
    values = {"holdout": RNG.normal(size=500), "target": np.append(RNG.normal(2, 1, 300), [1e6, np.nan, np.inf])}
    edges, shares = figures.shares_by_bin(values)
    assert len(edges) == figures.BINS + 1 and edges[-1] < 10
    for row in shares.values():
        assert row.sum() == pytest.approx(100)


def test_a_distribution_is_as_high_as_its_shares() -> None:
    chart = figures.distribution("x", "x", {"holdout": np.array([0.0, 0, 0, 1]), "target": np.array([1.0])})
    root = ElementTree.fromstring(chart or "")
    height = float(next(root.iter("svg")).find("svg").get("height", ""))  # type: ignore[union-attr]
    steps = {path.get("class"): path.get("d", "") for path in root.iter("path")}
    first = [float(point.split()[1]) for point in steps["step holdout"][1:].split("L")]
    assert first[0] == pytest.approx(height * 0.25, abs=0.1) and first[-1] == pytest.approx(height * 0.75, abs=0.1)
    assert set(steps) == {"step holdout", "area target", "step target"}


def test_constant_values_have_a_distribution() -> None:
    _, shares = figures.shares_by_bin({"holdout": np.full(5, 3.0), "target": np.full(4, 3.0)})
    assert shares["holdout"].sum() == pytest.approx(100)


def test_loss_distribution_needs_labels_on_both_sides() -> None:
    seen = evidence()
    latent = seen.latent.with_columns(loss=pl.when(pl.col("set") == "target").then(None).otherwise(pl.col("loss")))
    assert figures.loss_distribution(Evidence(latent, seen.traits, [], {}, "")) is None
    assert figures.trait_series(seen, "unknown") == {}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.42), (0, 1e-7), (-5000, 12), (0.1, 0.1000001)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    scale = charts.Scale(low, high, 0, 100)
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert [scale(low), scale(high), scale(high + 1)] == [0, 100, 100]


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (160, 80)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_sprites_hold_each_picture_once_at_its_place() -> None:
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    sprites = figures.thumbnail_sprites([picture(colours[i % 3]) for i in range(30)] + [None, b"no picture"])
    assert sprites.tiles == [0, 1, 2] * 10 + [-1, -1]
    assert len(sprites.sheets) == 1
    sheet = Image.open(io.BytesIO(sprites.sheets[0]))
    width, height = sprites.tile_size
    assert (width, height) == (160, 80)
    for cell, colour in enumerate(colours):
        middle = sheet.getpixel((cell % sprites.columns * width + width // 2, height // 2))
        assert middle == pytest.approx(colour, abs=25)


def test_sprites_shrink_until_they_fit() -> None:
    noise = [
        picture((0, 0, i % 256)) if i % 2 else _jpeg(RNG.integers(0, 255, (64, 128, 3), dtype=np.uint8))
        for i in range(600)
    ]
    sprites = figures.thumbnail_sprites(noise, budget=600_000)
    assert sum(map(len, sprites.sheets)) <= 600_000
    assert len(sprites.sheets) == 2
    assert sprites.tile_size[0] < 128
    assert max(sprites.tiles) < len(sprites.sheets) * sprites.columns**2


def _jpeg(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_no_thumbnails_make_no_sprites() -> None:
    assert figures.thumbnail_sprites([None, None]).sheets == []
    assert figures.thumbnail_sprites([]).tiles == []


HOSTILE = ["<script>", "$\\frac{1}{$", "a\nb", "🚗 emoji", "x" * 300, "_^{"]


def shift(name: str, effect: float | None, q: float | None) -> d.TraitShift:
    return d.TraitShift(
        name=name,
        label=name,
        family="colour",
        source_mean=0,
        target_mean=1,
        effect_size=effect,
        ks=0,
        wasserstein=0,
        p_value=q,
        q_value=q,
        loss_association=None,
        loss_association_p=None,
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.png_latent_map(
            pl.DataFrame(
                {"set": ["target", "holdout", "reference"] * 4_000, "x": RNG.random(12_000), "y": RNG.random(12_000)}
            )
        ),
        lambda: figures.png_latent_map(evidence().latent),
        lambda: figures.png_latent_map(
            pl.DataFrame({"set": [], "x": [], "y": []}, schema_overrides={"set": pl.String})
        ),
        lambda: figures.png_trait_shifts([shift(n, i - 2.5, 0.02 * i) for i, n in enumerate(HOSTILE)]),
        lambda: figures.png_trait_shifts([shift("a", None, None)]),
    ],
)
def test_pngs_are_small_and_draw_any_name(draw: Callable[[], bytes]) -> None:
    png = draw()
    assert len(png) < 100_000
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert image.size == (640, 360)


def test_importing_stays_light() -> None:
    code = (
        "import sys, assets.report.page, assets.report.figures;"
        "print([m for m in ('matplotlib', 'torch', 'PIL') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
