"""Which traits differ between target and holdout, and how each goes with the loss inside the target.

Belongs here: the trait shift table with its multiplicity correction and its artefact flags.
Does not: measuring traits, deciding causes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.statistics.multiplicity import benjamini_hochberg
from assets.statistics.shifts import shift_table, spearman_association
from assets.traits.registry import Trait, metadata_trait

Floats = NDArray[np.float64]

SHIFTS_SCHEMA: dict[str, Any] = {
    "name": pl.String,
    "label": pl.String,
    "family": pl.String,
    "kind": pl.String,
    "source_mean": pl.Float64,
    "target_mean": pl.Float64,
    "effect_size": pl.Float64,
    "ks": pl.Float64,
    "wasserstein": pl.Float64,
    "psi": pl.Float64,
    "psi_p_value": pl.Float64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
    "loss_association": pl.Float64,
    "loss_association_p": pl.Float64,
    "artefact": pl.String,
}

MISSING_SHARE = 0.5
"""A trait that is missing for more than this share of one set, and not of the other, says how data were collected."""

GAP_SCORE = Trait(
    "gap_score", "user", "model_statistics", "latent gap score", "distance",
    "How far the picture lies from the nearest reference pictures in the model's latent space.",
)  # fmt: skip


@dataclass(frozen=True)
class TraitValues:
    """The traits of one set: `values` (n, T) in the order of the catalogue, NaN where missing."""

    ids: list[str]
    units: list[str]
    values: Floats


def joined_traits(
    traits: pl.DataFrame, manifest: pl.DataFrame, scores: pl.DataFrame, part: str
) -> tuple[pl.DataFrame, dict[str, dict[str, Any]]]:
    """Traits of one part with unit and gap score, sorted by id; and the side information by sample id."""
    members = manifest.filter(pl.col("part") == part).select("sample_id", "unit", "metadata")
    frame = traits.join(members, on="sample_id", how="inner")
    frame = frame.join(scores.select("sample_id", "gap_score"), on="sample_id", how="left").sort("sample_id")
    metadata = {name: json.loads(text) for name, text in frame.select("sample_id", "metadata").iter_rows()}
    return frame, metadata


def shifts(
    catalogue: dict[str, Trait],
    holdout: tuple[pl.DataFrame, dict[str, dict[str, Any]]],
    target: tuple[pl.DataFrame, dict[str, dict[str, Any]]],
    losses: dict[str, float],
    *,
    permutations: int,
    seed: int,
) -> pl.DataFrame:
    """The shift table: one row a trait, strongest effect first.

    p-values permute whole units; q-values are Benjamini–Hochberg over `p_value`, that of the Kolmogorov–Smirnov
    statistic, of all traits that are no artefacts. `losses` are the target's, by sample id ({} without labels: no
    association).
    """
    metadata = _metadata_traits({*catalogue, GAP_SCORE.name}, holdout[1], target[1])
    traits = [*catalogue.values(), GAP_SCORE, *metadata.values()]
    source = _values(holdout, list(catalogue), metadata)
    other = _values(target, list(catalogue), metadata)
    rng = np.random.default_rng(seed)
    table = shift_table(source.values, other.values, source.units, other.units, permutations, rng)
    loss = np.array([losses.get(name, math.nan) for name in other.ids])
    rows = []
    for i, trait in enumerate(traits):
        association, p = (math.nan, math.nan)
        if losses:
            association, p = spearman_association(other.values[:, i], loss, other.units, permutations, rng)
        rows.append(
            {
                "name": trait.name, "label": trait.label, "family": trait.family, "kind": trait.kind,
                "source_mean": _mean(source.values[:, i]), "target_mean": _mean(other.values[:, i]),
                "effect_size": float(table.hedges_g[i]), "ks": float(table.ks[i]),
                "wasserstein": float(table.standardised_wasserstein[i]), "psi": float(table.psi[i]),
                "psi_p_value": float(table.psi_p_value[i]), "p_value": float(table.p_value[i]),
                "q_value": math.nan, "loss_association": association, "loss_association_p": p,
                "artefact": artefact(trait, source.values[:, i], other.values[:, i]),
            }
        )  # fmt: skip
    return _with_q_values(pl.DataFrame(rows, schema=SHIFTS_SCHEMA))


def artefact(trait: Trait, source: Floats, target: Floats) -> str | None:
    """Why a trait tells how data were collected rather than what they show; None where it does not.

    The picture's own shape and compression are exempt: they are often constant, and an experiment can undo or imitate
    them.
    """
    missing = [float(np.isnan(side).mean()) if side.size else 1.0 for side in (source, target)]
    if trait.kind == "layout":
        return None  # a class that one set lacks is content
    if max(missing) > MISSING_SHARE:
        which = "the source" if missing[0] > missing[1] else "the target"
        return f"missing in {max(missing):.0%} of {which}"
    if trait.kind in {"shape", "original"}:
        return None
    present = [side[~np.isnan(side)] for side in (source, target)]
    constant = [side.size > 1 and float(np.ptp(side)) == 0 for side in present]
    if any(constant):
        which = "both sets" if all(constant) else "the source" if constant[0] else "the target"
        return f"constant in {which}"
    return None


def _with_q_values(rows: pl.DataFrame) -> pl.DataFrame:
    p_values = rows.select(pl.when(pl.col("artefact").is_null()).then("p_value").otherwise(math.nan))
    q_values = benjamini_hochberg(p_values.to_series().to_numpy())
    strength = pl.col("effect_size").abs().fill_nan(-1)
    ranked = rows.with_columns(q_value=pl.Series(q_values)).sort(
        pl.col("artefact").is_not_null(), -strength, "name", maintain_order=True
    )
    return ranked.select(list(SHIFTS_SCHEMA))


def _metadata_traits(taken: set[str], *sides: dict[str, dict[str, Any]]) -> dict[tuple[str, str | None], Trait]:
    """One trait a numeric key, and one a value of a text key with few values, of both sets' side information.

    Keys that differ in case or signs alone would share a name with one another (or `taken`): later ones are numbered.
    """
    texts: dict[str, set[str]] = {}
    numbers: set[str] = set()
    for side in sides:
        for entries in side.values():
            for key, value in entries.items():
                if isinstance(value, str):
                    texts.setdefault(key, set()).add(value)
                else:
                    numbers.add(key)
    found: dict[tuple[str, str | None], Trait] = {(key, None): metadata_trait(key) for key in sorted(numbers)}
    for key, values in sorted(texts.items()):
        if len(values) <= MOST_VALUES:
            found.update({(key, value): metadata_trait(f"{key} = {value}") for value in sorted(values)})
    names = set(taken)
    for place, trait in found.items():
        tried = (trait.name, *(f"{trait.name}_{number}" for number in range(2, len(names) + 3)))
        name = next(name for name in tried if name not in names)
        names.add(name)
        found[place] = replace(trait, name=name)
    return found


MOST_VALUES = 12
"""A text key with more values than this (a file name, a time) is no category."""


def _values(
    side: tuple[pl.DataFrame, dict[str, dict[str, Any]]],
    names: list[str],
    metadata: dict[tuple[str, str | None], Trait],
) -> TraitValues:
    frame, entries = side
    measured = frame.select(*names, GAP_SCORE.name).cast(pl.Float64).fill_null(math.nan).to_numpy()
    extra = [[_metadata_value(entries[name], key, value) for name in frame["sample_id"]] for key, value in metadata]
    columns = np.column_stack([measured, *(np.array(column) for column in extra)]) if extra else measured
    return TraitValues(frame["sample_id"].to_list(), frame["unit"].to_list(), np.asarray(columns, np.float64))


def _metadata_value(entries: dict[str, Any], key: str, value: str | None) -> float:
    given = entries.get(key)
    if given is None or (value is None and isinstance(given, str)):  # 'n/a' in a column of numbers
        return math.nan
    return float(given) if value is None else float(given == value)


def _mean(values: Floats) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan
