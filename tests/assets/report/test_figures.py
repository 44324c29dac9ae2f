"""Figures: what the waterfall adds up to, what Plotly accepts, how small PNGs and sprites stay."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.report import document as d
from assets.report import figures
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
    assert [text.split(" · ")[1] for text in over["data"][0]["text"]] == ["100%", "107%", "−7%"]


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


def test_plotly_accepts_every_figure() -> None:
    go = pytest.importorskip("plotly.graph_objects")
    seen = evidence()
    drawn = [
        figures.gap_waterfall(document()),
        figures.latent_map(seen.latent),
        figures.latent_map(seen.latent, "pca"),
        figures.loss_distribution(seen),
        figures.trait_distribution(seen, "sharp"),
        figures.trait_distribution(seen, "sharp", after="haze"),
        figures.distribution({}),
    ]
    for figure in drawn:
        assert go.Figure(figure).to_dict()


def test_distribution_counts_every_sample_once() -> None:
    values = {"holdout": RNG.normal(size=500), "target": np.append(RNG.normal(2, 1, 300), [1e6, np.nan, np.inf])}
    figure = figures.distribution(values)
    for trace in figure["data"]:
        assert sum(trace["y"][:-1]) == pytest.approx(100, abs=0.2)
        assert len(trace["x"]) == len(trace["y"]) == 29
    assert max(figure["data"][0]["x"]) < 10


def test_constant_values_have_a_distribution() -> None:
    figure = figures.distribution({"holdout": np.full(5, 3.0), "target": np.full(4, 3.0)})
    assert sum(figure["data"][0]["y"][:-1]) == pytest.approx(100, abs=0.2)


def test_loss_distribution_needs_labels_on_both_sides() -> None:
    seen = evidence()
    latent = seen.latent.with_columns(loss=pl.when(pl.col("set") == "target").then(None).otherwise(pl.col("loss")))
    assert figures.loss_distribution(Evidence(latent, seen.traits, [], {}, "")) is None
    assert figures.trait_distribution(seen, "unknown") is None


def test_map_points_know_their_rows_and_sets_stay_in_proportion() -> None:
    latent = evidence(3_000).latent
    drawn = figures.drawn_points(latent, limit=300)
    assert 300 <= drawn.height <= 303
    assert drawn["set"].value_counts()["count"].to_list() == [100, 100, 100]
    assert figures.drawn_points(latent).height == 3_000
    for trace in figures.latent_map(drawn, "pca")["data"]:
        assert drawn["set"].gather(trace["customdata"]).unique().to_list() == [trace["name"]]
        assert trace["x"] == pytest.approx(drawn["pca_x"].gather(trace["customdata"]).to_list(), rel=1e-3)


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
        "print([m for m in ('plotly', 'matplotlib', 'torch', 'PIL') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
