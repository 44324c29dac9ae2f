"""What could be the cause: hypotheses as data, ranked by what speaks for them before any experiment.

Belongs here: the catalogue of hypotheses, their support by trait shifts, their ranking.
Does not: the transforms that try them (experiments/registry.py), verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.traits.layout import slug

HYPOTHESES_SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "family": pl.String,
    "title": pl.String,
    "statement": pl.String,
    "traits": pl.List(pl.String),
    "evidence": pl.List(pl.String),
    "rank": pl.Int64,
    "supported": pl.Boolean,
    "reason": pl.String,
}

COLOUR_TRAITS = ("mean_red", "mean_green", "mean_blue", "std_red", "std_green", "std_blue")
LAB_TRAITS = ("lab_l_mean", "lab_a_mean", "lab_b_mean", "lab_l_std", "lab_a_std", "lab_b_std")
TINT_TRAITS = ("lab_a_mean", "lab_b_mean", "colour_cast")
COARSE_TRAITS = (*COLOUR_TRAITS, "spectral_low", "vignette")
FDA_SHARES = {"fda_b01": 0.01, "fda_b05": 0.05, "fda_b09": 0.09}
"""β of the three windows of low frequencies, by id."""
CONTENT_CLASSES = ("sky", "vegetation", "building", "car", "vehicle")
SUPPORT = 0.05
"""q-value at or below which a trait counts as different."""


@dataclass(frozen=True)
class Hypothesis:
    """'Trait T differs and costs loss', for one or more traits of one family.

    `id` becomes an asset key: lower-case letters, digits and '_'.
    """

    id: str
    family: str
    title: str
    statement: str
    traits: tuple[str, ...]


def appearance_hypotheses() -> list[Hypothesis]:
    """Hypotheses on how pictures look and how they are shaped, and on the model's own statistics."""
    return [
        Hypothesis("channel_statistics", "colour", "channel mean and deviation",
                   "The target's colour channels have other means and deviations, and that costs loss.",
                   COLOUR_TRAITS),
        Hypothesis("channel_statistics_per_image", "colour", "channel mean and deviation, per image",
                   "Each target picture's colour channels are off by its own amount, and that costs loss.",
                   COLOUR_TRAITS),
        Hypothesis("histogram", "colour", "channel histograms",
                   "The target's colour values are distributed differently, beyond mean and deviation.",
                   (*COLOUR_TRAITS, "luma_p05", "luma_p95")),
        Hypothesis("exposure", "exposure", "exposure and gamma",
                   "The target is exposed differently or has another tone curve, and that costs loss.",
                   ("brightness", "gamma_estimate", "luma_p05", "luma_p95")),
        Hypothesis("sharpness", "sharpness", "sharpness",
                   "The target is blurred or sharpened against the source, and that costs loss.",
                   ("sharpness", "spectral_high", "spectral_slope")),
        Hypothesis("lab", "colour", "colour, in Lab",
                   "The target's lightness and tints have other means and deviations, and that costs loss.",
                   LAB_TRAITS),
        Hypothesis("lab_per_image", "colour", "colour, in Lab, per image",
                   "Each target picture's lightness and tints are off by its own amount, and that costs loss.",
                   LAB_TRAITS),
        Hypothesis("white_balance", "colour", "white balance",
                   "The target's pictures have another tint as a whole, and that costs loss.", TINT_TRAITS),
        Hypothesis("white_balance_per_image", "colour", "white balance, per image",
                   "Each target picture has a tint of its own, and that costs loss.", TINT_TRAITS),
        Hypothesis("exposure_per_image", "exposure", "exposure, per image",
                   "Each target picture is exposed differently, by its own amount, and that costs loss.",
                   ("gamma_estimate", "brightness")),
        Hypothesis("contrast", "contrast", "contrast",
                   "The target's pictures are flatter or harder than the source's, and that costs loss.",
                   ("contrast", "lab_l_std")),
        Hypothesis("saturation", "saturation", "saturation",
                   "The target's colours are paler or more vivid than the source's, and that costs loss.",
                   ("saturation",)),
        Hypothesis("haze", "haze", "haze",
                   "A veil of light lies over the target's pictures (or over the source's), and that costs loss.",
                   ("dark_channel",)),
        Hypothesis("noise", "noise", "noise",
                   "The target's pictures are noisier than the source's, and that costs loss.", ("noise_sigma",)),
        Hypothesis("compression", "compression", "compression",
                   "The target's pictures were compressed harder than the source's, and that costs loss.",
                   ("blockiness", "jpeg_quality")),
        Hypothesis("resolution", "sharpness", "resolution",
                   "The target's pictures hold less fine detail than their size says, and that costs loss.",
                   ("sharpness", "spectral_high", "spectral_mid", "edge_density")),
        Hypothesis("vignette", "vignette", "vignetting",
                   "The target's pictures fall off towards the corners by another amount, and that costs loss.",
                   ("vignette",)),
        *(Hypothesis(name, "colour", f"coarse colours and shading, β = {share:g}",
                     f"Colours and shading of what is larger than {1 / share:.0f} pixels differ in the target, and "
                     "that costs loss.", COARSE_TRAITS)
          for name, share in FDA_SHARES.items()),
        Hypothesis("aspect_windows", "geometry", "aspect, by windows",
                   "Resizing stretches the target's pictures; windows of the source's aspect would not.",
                   ("aspect_ratio",)),
        Hypothesis("aspect_letterbox", "geometry", "aspect, by letterbox",
                   "Resizing stretches the target's pictures; bars around them would keep their shape.",
                   ("aspect_ratio",)),
    ]  # fmt: skip


def model_hypotheses() -> list[Hypothesis]:
    """Hypotheses on the model rather than on the picture."""
    return [
        Hypothesis("batch_norm", "model_statistics", "batch-norm statistics",
                   "The model's stored feature statistics do not fit the target, and that costs loss.",
                   ("gap_score",)),
    ]  # fmt: skip


def content_hypotheses(class_names: Sequence[str], size_traits: Sequence[str]) -> list[Hypothesis]:
    """Hypotheses on what is in the pictures: shares of some classes, sizes of objects, where the horizon is."""
    found = [
        Hypothesis(
            f"content_{name}", "content", f"share of {name}",
            f"The target shows another amount of {name}, and that costs loss.", (f"share_{name}",),
        )
        for name in class_names
        if name in CONTENT_CLASSES
    ]  # fmt: skip
    if size_traits:
        found.append(
            Hypothesis("object_scale", "geometry", "scale of objects",
                       "Objects appear at another size than in the source, and that costs loss.",
                       tuple(size_traits))
        )  # fmt: skip
    if horizons := horizon_traits(class_names):
        found.append(
            Hypothesis("field_of_view", "geometry", "field of view and horizon",
                       "The target's camera sees another part of the scene, and that costs loss.",
                       (*horizons, *size_traits))
        )  # fmt: skip
    return found


def horizon_traits(class_names: Sequence[str]) -> tuple[str, ...]:
    """Traits that tell the horizon's height, the better one first: of the classes that there are."""
    return tuple(f"{name}_horizon" for name in ("road", "sky") if name in map(slug, class_names))


def rank_hypotheses(
    hypotheses: Sequence[Hypothesis], shift_rows: pl.DataFrame, loss_name: str = "loss"
) -> pl.DataFrame:
    """One row a hypothesis, the best supported first; `loss_name` is what evidence calls the loss inside the target.

    Supported where one of its traits differs (q ≤ 0.05) and is no artefact. The rank goes by the largest effect size
    among its traits, weighted up by how strongly that trait goes with the loss inside the target.
    """
    shifts = {row["name"]: row for row in shift_rows.iter_rows(named=True)}
    judged = [_judge(hypothesis, [shifts[name] for name in hypothesis.traits if name in shifts], loss_name)
              for hypothesis in hypotheses]  # fmt: skip
    judged.sort(key=lambda item: (not item[0]["supported"], -item[1], item[0]["id"]))
    rows = [{**row, "rank": rank} for rank, (row, _) in enumerate(judged, start=1)]
    return pl.DataFrame(rows, schema=HYPOTHESES_SCHEMA)


def _judge(hypothesis: Hypothesis, rows: list[dict[str, Any]], loss_name: str) -> tuple[dict[str, Any], float]:
    usable = [row for row in rows if row["artefact"] is None and not math.isnan(row["p_value"])]
    differing = [row for row in usable if row["q_value"] <= SUPPORT]
    strongest = max(usable, key=_weight, default=None)
    described = {
        "id": hypothesis.id, "family": hypothesis.family, "title": hypothesis.title,
        "statement": hypothesis.statement, "traits": list(hypothesis.traits),
        "evidence": [_evidence(row, loss_name) for row in sorted(usable, key=_weight, reverse=True)],
        "rank": 0, "supported": bool(differing), "reason": _reason(differing, usable, rows, hypothesis),
    }  # fmt: skip
    return described, _weight(strongest) if strongest else -1.0


def _weight(row: dict[str, Any]) -> float:
    effect = abs(row["effect_size"]) if not math.isnan(row["effect_size"]) else 0.0
    association = abs(row["loss_association"]) if not math.isnan(row["loss_association"]) else 0.0
    return effect * (1 + association)


def _evidence(row: dict[str, Any], loss_name: str) -> str:
    text = (
        f"{row['label']}: {row['source_mean']:.3g} in the source, {row['target_mean']:.3g} in the target "
        f"(g = {row['effect_size']:+.2f}, q = {row['q_value']:.3f})"
    )
    if not math.isnan(row["loss_association"]):
        text += f"; inside the target it goes with the {loss_name} at ρ = {row['loss_association']:+.2f}"
        text += f" (p = {row['loss_association_p']:.3f})"
    return text


def _reason(
    differing: list[dict[str, Any]], usable: list[dict[str, Any]], rows: list[dict[str, Any]], hypothesis: Hypothesis
) -> str:
    if differing:
        return f"differs: {', '.join(row['label'] for row in differing)}"
    if usable:
        nearest = min(usable, key=lambda row: row["q_value"])
        return f"no trait differs: {nearest['label']} has the lowest q = {nearest['q_value']:.3f} > {SUPPORT}"
    artefacts = [f"{row['label']} is {row['artefact']}" for row in rows if row["artefact"] is not None]
    if artefacts:
        return f"an artefact of collection: {'; '.join(artefacts)}"
    return f"not measured in both sets: {', '.join(hypothesis.traits)}"
