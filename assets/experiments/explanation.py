"""The explanation of a target's shift as the doors keep it: from tables to `explain`, and to plain values.

Belongs here: which pictures are probed, which samples and traits an explanation rests on, what it says of an
experiment. Does not: measuring responses (`responses.py`), the choice of causes (`explain.py`), Dagster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl

from assets.experiments.explain import explain, shift_between
from assets.experiments.responses import KINDS, PROBED, content_responses
from assets.experiments.search import Response, Shift
from assets.traits.registry import Trait
from resources.config import StatisticsConfig

NEARLY = 0.5
"""Share of the best cause's gain from which on another cause is worth an experiment."""


def probed_ids(manifest: pl.DataFrame) -> list[str]:
    """Samples of the source's holdout that are probed: labelled ones of the fit half, the first by hash."""
    usable = (pl.col("part") == "holdout") & pl.col("labelled") & ~pl.col("quarantined") & ~pl.col("report_half")
    names: list[str] = manifest.filter(usable)["sample_id"].to_list()
    return sorted(names, key=lambda name: blake2b(name.encode(), digest_size=8).digest())[:PROBED]


def responses_as_values(responses: Sequence[Response], names: Sequence[str]) -> dict[str, Any]:
    """Plain values to store."""
    rows = [
        {"experiment": response.experiment, "axes": [axis.tolist() for axis in response.axes],
         "changes": response.changes.round(6).tolist(), "parameters": list(response.parameters)}
        for response in responses
    ]  # fmt: skip
    return {"traits": list(names), "responses": rows}


def explained(
    stored: dict[str, Any], traits: dict[str, Trait], source: pl.DataFrame, target: pl.DataFrame,
    experiments: Sequence[str], settings: StatisticsConfig,
) -> dict[str, Any]:  # fmt: skip
    """Which causes reproduce the shift between two tables of traits (with `unit`), as plain values to store.

    Where a side's masks are predictions, traits of masks are left out: they would differ by the model's mistakes.
    """
    labelled = source["from_label"].all() and target["from_label"].all()
    names = [name for name in stored["traits"] if name in traits and (labelled or traits[name].kind == "picture")]
    kept = [stored["traits"].index(name) for name in names]
    candidates = [
        Response(row["experiment"], tuple(np.array(axis) for axis in row["axes"]),
                 np.array(row["changes"])[..., kept], tuple(row["parameters"]))
        for row in stored["responses"]
        if row["experiment"] in experiments
    ]  # fmt: skip
    if labelled:
        candidates += content_responses(experiments, source, names)
    shift = _shift(source, target, names, settings)
    found = explain(shift, candidates, seed=settings.seed)
    return {
        **asdict(found),
        "steps": [asdict(step) for step in found.steps],
        "traits": [name for name, known in zip(names, shift.known, strict=True) if known],
        "kinds": sorted(KINDS if labelled else {"picture"}),
    }


def traits_of_part(traits: pl.DataFrame, manifest: pl.DataFrame, part: str) -> pl.DataFrame:
    """The traits of one part's samples with their `unit`, sorted by id."""
    members = manifest.filter(pl.col("part") == part).select("sample_id", "unit")
    return traits.join(members, on="sample_id", how="inner").sort("sample_id")


def not_explained(explanation: dict[str, Any], experiment: str, titles: dict[str, str]) -> str | None:
    """Why an experiment is not worth a forward, given what explains the shift; None where it is, or may be.

    An experiment without a response, a shift that nothing explains, or a cause that alone would explain at least half
    as much as the best one, is no reason: loss decides among those.
    """
    steps = explanation["steps"]
    if not steps or experiment not in explanation["alone"]:
        return None
    alone, whole = explanation["alone"][experiment], explanation["misfit"]
    if alone >= NEARLY * max(explanation["alone"].values()):
        return None
    if any(experiment == step["experiment"] or experiment in step["rivals"] for step in steps):
        return None
    causes = " and ".join(titles[step["experiment"]] for step in steps)
    return (
        f"the traits' shift is explained by {causes} ({1 - explanation['remaining'] / whole:.0%} of it); this alone "
        f"would explain {alone / whole:.0%}, and adds too little to that"
    )


def _shift(source: pl.DataFrame, target: pl.DataFrame, names: list[str], settings: StatisticsConfig) -> Shift:
    sides = [(rows.select(names).to_numpy().astype(np.float64), rows["unit"].to_list()) for rows in (source, target)]
    return shift_between(*sides[0], *sides[1], permutations=settings.permutations, seed=settings.seed)
