"""What the field does by hand, run on the same case: each baseline scores traits and names the hypotheses of the best.

Belongs here: rules over tables of traits and losses. Does not: the product's own rule, plants, the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_selection import mutual_info_regression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from assets.statistics.effect_sizes import hedges_g, psi

Floats = NDArray[np.float64]

METADATA = "metadata_"
COLOUR_FIRST = ("white_balance", "channel_statistics", "lab", "histogram")
"""The constant answer: most reports on domain gaps blame colour."""
FOLDS = 5
REPEATS = 5
WORST = 0.2
"""Share of the target's samples that count as its worst."""
FEWEST = 5
"""A trait that fewer samples of a side have says nothing there."""
SLICE_ALPHA = 0.95
"""Weight of a slice's mean loss against its size; Sagadeeva & Boehm's own choice."""
SLICE_SUPPORT = 10


@dataclass(frozen=True)
class CaseTables:
    """What every baseline sees: traits and losses of both sides, nothing of the plants.

    `holdout` (n, T) and `target` (m, T) hold `traits` (T names), NaN where missing; losses (n,) and (m,) are finite
    and in nats. Units (n) and (m) name what moves as one. `hypotheses`: the traits that speak of each, of appearance,
    geometry and content; some may have none.
    """

    holdout: Floats
    target: Floats
    holdout_loss: Floats
    target_loss: Floats
    holdout_units: list[str]
    target_units: list[str]
    traits: list[str]
    hypotheses: dict[str, tuple[str, ...]]
    seed: int


def baseline_answers(tables: CaseTables) -> dict[str, list[str]]:
    """Each baseline's hypotheses, best first; those that it has nothing to say of are left out.

    A trait speaks of the hypotheses that list it, one of the side information (`metadata_*`) of nothing but itself,
    any other of nothing.
    """
    scores = {
        "effect_size": effect_size(tables),
        "psi": population_stability(tables),
        "domain_classifier": domain_classifier(tables),
        "mutual_information": mutual_information(tables),
        "worst_samples": worst_samples(tables),
        "loss_correlation": loss_correlation(tables),
        "pooled_loss_correlation": pooled_loss_correlation(tables),
        "sliceline": sliceline(tables),
    }
    answers = {name: ranked(found, tables) for name, found in scores.items()}
    catalogue = list(tables.hypotheses)
    answers["random"] = np.random.default_rng(tables.seed).permutation(catalogue).tolist()
    answers["always_colour"] = sorted(catalogue, key=lambda name: _place(COLOUR_FIRST, name))
    return answers


def ranked(scores: Floats, tables: CaseTables) -> list[str]:
    """Hypotheses by their best trait's score (T,); of equals the one of fewest traits. A score must be above 0."""
    by_trait = dict(zip(tables.traits, np.nan_to_num(scores, nan=0.0, posinf=np.inf).tolist(), strict=True))
    metadata = {name: (name,) for name in tables.traits if name.startswith(METADATA)}
    spoken_of = {**tables.hypotheses, **metadata}
    best = {name: max((by_trait.get(trait, 0.0) for trait in own), default=0.0) for name, own in spoken_of.items()}
    return sorted((name for name in best if best[name] > 0), key=lambda name: (-best[name], len(spoken_of[name])))


def effect_size(tables: CaseTables) -> Floats:
    """|Hedges' g| between the sides, (T,)."""
    return np.array([abs(hedges_g(target, holdout)) for holdout, target in _columns(tables)])


def population_stability(tables: CaseTables) -> Floats:
    """Population stability index over the holdout's deciles, (T,)."""
    return np.array([psi(holdout, target) for holdout, target in _columns(tables)])


def domain_classifier(tables: CaseTables) -> Floats:
    """Rise of a domain classifier's log loss when a trait is permuted, (T,): on folds of unseen units, in nats.

    Logistic regression on standardised traits. NaN where a side has a single unit, or the trait varies nowhere.
    """
    side = np.repeat([0, 1], [len(tables.holdout), len(tables.target)])
    units = np.array([f"{place}/{unit}" for place, unit in zip(side, _units(tables), strict=True)])
    values, used = _complete(np.concatenate([tables.holdout, tables.target]))
    found = np.full(len(tables.traits), np.nan)
    folds = min(FOLDS, len(set(tables.holdout_units)), len(set(tables.target_units)))
    if folds < 2 or not used.any():
        return found
    rng = np.random.default_rng(tables.seed)
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=tables.seed)
    rises = []
    for seen, unseen in division.split(values, side, units):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(values[seen], side[seen])
        rises.append(_permutation_rise(model, values[unseen], side[unseen], rng) * len(unseen))
    found[used] = np.sum(rises, axis=0) / len(side)
    return found


def mutual_information(tables: CaseTables) -> Floats:
    """Mutual information of a trait with the loss inside the target, (T,), in nats (Kraskov's estimate)."""
    values, used = _complete(tables.target)
    found = np.full(len(tables.traits), np.nan)
    if used.any():
        found[used] = mutual_info_regression(values, tables.target_loss, random_state=tables.seed)
    return found


def worst_samples(tables: CaseTables) -> Floats:
    """|Hedges' g| between the target's samples of highest loss and its others, (T,)."""
    worst = tables.target_loss >= np.quantile(tables.target_loss, 1 - WORST)
    return np.array([abs(hedges_g(column[worst], column[~worst])) for column in tables.target.T])


def loss_correlation(tables: CaseTables) -> Floats:
    """|Spearman's ρ| of a trait with the loss inside the target, (T,)."""
    return np.array([_correlation(column, tables.target_loss) for column in tables.target.T])


def pooled_loss_correlation(tables: CaseTables) -> Floats:
    """|Spearman's ρ| of a trait with the loss over the samples of both sides, (T,)."""
    loss = np.concatenate([tables.holdout_loss, tables.target_loss])
    return np.array([_correlation(column, loss) for column in np.concatenate([tables.holdout, tables.target]).T])


def sliceline(tables: CaseTables) -> Floats:
    """Score of the best slice of the target that a trait takes part in, (T,); NaN where there is none.

    Slices are one or two conditions, each a third of a trait's range. Of a slice of s among m samples, with mean loss
    e against ē of all, the score is α(e/ē − 1) − (1 − α)(m/s − 1) (Sagadeeva & Boehm 2021). All of them are scored:
    that gives the same best slice as their pruning and is faster at this size.
    """
    literals, owner = _thirds(tables.target)
    found = np.full(len(tables.traits), np.nan)
    if not len(owner):
        return found
    size = literals.T @ literals
    loss = literals.T @ (literals * tables.target_loss[:, None])
    alone = np.diag(size)
    narrower = (size < alone[:, None]) & (size < alone) | np.eye(len(owner), dtype=bool)
    large = (size >= SLICE_SUPPORT) & narrower
    several = np.maximum(size, 1)
    risen = loss / several / tables.target_loss.mean() - 1
    score = SLICE_ALPHA * risen - (1 - SLICE_ALPHA) * (len(literals) / several - 1)
    best = np.where(large, score, -np.inf).max(axis=1)
    for trait in np.unique(owner):
        found[trait] = best[owner == trait].max()
    return found


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _columns(tables: CaseTables) -> Iterator[tuple[Floats, Floats]]:
    """Each trait's values on both sides; none where a side has too few."""
    for holdout, target in zip(tables.holdout.T, tables.target.T, strict=True):
        few = min(np.isfinite(holdout).sum(), np.isfinite(target).sum()) < FEWEST
        yield (holdout[:0], target[:0]) if few else (holdout, target)


def _units(tables: CaseTables) -> list[str]:
    return [*tables.holdout_units, *tables.target_units]


def _complete(values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The columns (n, U) that vary, missing values at their median; and which of the T columns they are."""
    used = np.array([_varies(column) for column in values.T], dtype=bool)
    kept = values[:, used]
    return np.where(np.isnan(kept), np.nanmedian(kept, axis=0), kept) if used.any() else kept, used


def _varies(column: Floats) -> bool:
    present = column[~np.isnan(column)]
    return len(present) >= FEWEST and bool(np.ptp(present) > 0)


def _permutation_rise(model: Pipeline, values: Floats, side: NDArray[np.int_], rng: np.random.Generator) -> Floats:
    """Mean rise of the log loss over permutations of each column, (U,); all are predicted at once."""
    rows, columns = values.shape
    shuffled = np.tile(values, (columns, REPEATS, 1, 1))
    for column in range(columns):
        for repeat in range(REPEATS):
            shuffled[column, repeat, :, column] = rng.permutation(values[:, column])
    chance = model.predict_proba(shuffled.reshape(-1, columns))[:, 1].reshape(columns, REPEATS, rows)
    before = log_loss(side, model.predict_proba(values)[:, 1], labels=[0, 1])
    correct = np.clip(np.where(side == 1, chance, 1 - chance), 1e-15, 1)
    rise: Floats = -np.log(correct).mean(axis=(1, 2)) - before
    return rise


def _correlation(column: Floats, loss: Floats) -> float:
    present = ~np.isnan(column)
    if not _varies(column) or np.ptp(loss[present]) == 0:
        return np.nan
    return abs(float(stats.spearmanr(column[present], loss[present]).statistic))


def _thirds(values: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Conditions (m, L) as 0 or 1, low, middle and high third of each trait that varies, and their traits (L,)."""
    literals, owner = [], []
    for trait, column in enumerate(values.T):
        if not _varies(column):
            continue
        low, high = np.nanquantile(column, [1 / 3, 2 / 3])
        literals += [column <= low, (column > low) & (column <= high), column > high]
        owner += [trait] * 3
    return np.array(literals, dtype=np.float64).reshape(len(owner), len(values)).T, np.array(owner, dtype=np.intp)
