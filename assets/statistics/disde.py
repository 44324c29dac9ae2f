"""A loss gap split by where in feature space it arises: inputs that both sets share, their losses, inputs of one set.

Belongs here: DISDE (Cai, Namkoong & Yadlowsky 2023, 'Diagnosing model performance under distribution shift').
Does not: the split by class (segmentation), tests of whether the sets differ (two_sample).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.distances import matrix_pair, row_blocks
from assets.statistics.resampling import Names, bootstrap_weights, percentile_interval, pooled_units

Floats = NDArray[np.float64]
Interval = tuple[float, float]

FOLDS = 5
FEWEST_UNITS = 2
MOST_COMPONENTS = 32
SAMPLES_PER_COMPONENT = 10
"""Latents are reduced to at most one principal component for so many samples, or any two sets can be told apart."""
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the classifier's ridge penalty, of which the likelihood of held-out units picks one."""
NEWTON_STEPS = 50
CONVERGED = 1e-6
FEW_WEIGHTINGS = 16
"""Up to so many at once, a product for each costs less than the squares of all rows, which all of them share."""
LEAST_CURVATURE = 1e-3
"""Keeps Newton's steps short where the sets are told apart without doubt."""
TIE = 1e-12


@dataclass(frozen=True)
class Term:
    """One part of the gap with its 95% interval."""

    value: float
    ci95: Interval


@dataclass(frozen=True)
class Disde:
    """A mean loss gap in three parts that sum to it exactly.

    S is what the two sets share: density ∝ p·q/(p + q). `shared_inputs`: from the source to S, the source's losses
    (inputs that both sets have, another number of hard ones); `outcome`: target's losses against the source's on S
    (the same inputs, another loss); `unseen_inputs`: from S to the target, the target's losses.
    """

    shared_inputs: Term
    outcome: Term
    unseen_inputs: Term
    total: float
    effective_samples: tuple[float, float]
    """Kish's effective number of source and target samples that stand for S: few where the sets hardly overlap."""


def disde(
    source_latents: ArrayLike,
    source_losses: ArrayLike,
    source_units: Names,
    target_latents: ArrayLike,
    target_losses: ArrayLike,
    target_units: Names,
    *,
    draws: int,
    rng: np.random.Generator,
) -> Disde:
    """Split mean(target losses) − mean(source losses) with a cross-fitted domain classifier.

    With π(x) = q/(p + q), the classifier's probability under equal weight of the sets, a source sample stands for S
    with weight ∝ π, a target sample with weight ∝ 1 − π. π comes from logistic regression on principal components,
    fitted on other units than it is used on. The intervals resample units and fit the classifier anew in every draw,
    its components and penalty held fixed: with the weights held fixed, too, terms of sets that do not differ lay off
    their interval in half of all simulated splits, since a chance difference of inputs moves π and the losses alike.

    Args:
        source_latents: (n, d).
        source_losses: (n,) finite.
        source_units: (n,) unit of each sample.
        target_latents: (m, d).
        target_losses: (m,) finite.
        target_units: (m,) unit of each sample.
        draws: bootstrap draws.
        rng: source of randomness (folds, then draws).

    Raises:
        ValueError: fewer than two units on a side, or lengths that differ; see also `distances.matrix_pair`.
    """
    a, b = matrix_pair(source_latents, target_latents)
    losses = np.asarray(source_losses, dtype=np.float64), np.asarray(target_losses, dtype=np.float64)
    if not (len(a) == len(losses[0]) == len(source_units) and len(b) == len(losses[1]) == len(target_units)):
        raise ValueError("latents, losses and units differ in length")
    labels = np.repeat([0, 1], [len(a), len(b)])
    drawn = [bootstrap_weights(units, draws, rng) for units in (source_units, target_units)]
    times = np.concatenate([np.ones((1, len(labels))), np.concatenate(drawn, axis=1)])
    units = pooled_units(source_units, target_units)
    chance = target_probability(np.concatenate([a, b]), labels, units, rng, times)
    shared = chance[:, labels == 0], 1 - chance[:, labels == 1]
    values = _terms(losses, shared, (times[:, labels == 0], times[:, labels == 1]))
    terms = [Term(float(value[0]), percentile_interval(value[1:])) for value in values]
    return Disde(
        shared_inputs=terms[0],
        outcome=terms[1],
        unseen_inputs=terms[2],
        total=float(losses[1].mean() - losses[0].mean()),
        effective_samples=(_effective(shared[0][0]), _effective(shared[1][0])),
    )


def target_probability(
    vectors: Floats,
    labels: NDArray[np.int_],
    units: NDArray[np.str_],
    rng: np.random.Generator,
    resampled: Floats | None = None,
) -> Floats:
    """Probability of the second set at each vector were the sets of equal size, from folds without its unit.

    Args:
        vectors: (N, d).
        labels: (N,) 0 or 1.
        units: (N,) unit of each; a unit holds samples of one set.
        rng: source of randomness.
        resampled: (B, N) how often each sample counts in B fits; once in one fit when left out.

    Returns:
        (B, N).

    Raises:
        ValueError: fewer than two units in a set.
    """
    times = np.ones((1, len(labels))) if resampled is None else resampled
    folds = _folds(labels, units, rng)
    chance = np.empty(times.shape)
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        reduce = _reduction(vectors[~test])
        train, seen = reduce(vectors[~test]), reduce(vectors[test])
        penalty = _penalty(train, labels[~test], units[~test], rng)
        fits = ridge_logistic(train, labels[~test], times[:, ~test], penalty)
        chance[:, test] = _chance(fits, seen)
    return chance


def ridge_logistic(vectors: Floats, labels: NDArray[np.int_], times: Floats, penalty: float) -> Floats:
    """Logistic regressions on the same vectors under several weightings, both labels brought to equal weight.

    Minimises penalty·Σ wᵢ·log loss + ½‖β‖² (scikit-learn's `C` and `class_weight="balanced"`) by Newton's method,
    all weightings at once.

    Args:
        vectors: (n, d).
        labels: (n,) 0 or 1.
        times: (B, n) non-negative.
        penalty: inverse strength of the ridge, which spares the intercept.

    Returns:
        (B, d + 1) coefficients, the intercept last.
    """
    design = np.column_stack([vectors, np.ones(len(vectors))])
    width = design.shape[1]
    ridge = np.diag([*np.ones(width - 1), 0.0]) + 1e-9 * np.eye(width)
    mass = np.column_stack([times[:, labels == 0].sum(1), times[:, labels == 1].sum(1)])
    balanced = np.divide(times, 2 * mass[:, labels], out=np.zeros_like(times), where=mass[:, labels] > 0)
    weights = penalty * times.sum(1, keepdims=True) * balanced
    found = np.zeros((len(times), width))
    for _ in range(NEWTON_STEPS):
        chance = _chance(found, vectors)
        slope = (weights * (chance - labels)) @ design + found @ ridge
        curvature = weights * np.maximum(chance * (1 - chance), LEAST_CURVATURE)
        steps = np.linalg.solve(_gram(design, curvature) + ridge, slope[:, :, None])[:, :, 0]
        found -= steps
        if np.abs(steps).max() < CONVERGED:
            break
    return found


def _gram(design: Floats, weights: Floats) -> Floats:
    """Σᵢ w_bᵢ xᵢxᵢᵀ for each weighting: (B, d, d)."""
    if len(weights) <= FEW_WEIGHTINGS:
        return np.stack([(design * own[:, None]).T @ design for own in weights])
    width = design.shape[1]
    total = np.zeros((len(weights), width * width))
    for rows in row_blocks(len(design), width * width):
        squares = (design[rows, :, None] * design[rows, None, :]).reshape(-1, width * width)
        total += weights[:, rows] @ squares
    return total.reshape(-1, width, width)


def _chance(coefficients: Floats, vectors: Floats) -> Floats:
    """(B, n) probabilities of label 1."""
    from scipy.special import expit

    chance: Floats = expit(coefficients[:, :-1] @ vectors.T + coefficients[:, -1:])
    return chance


def _reduction(vectors: Floats) -> Callable[[Floats], Floats]:
    """Standardised principal components, as many as the samples bear."""
    mean, spread = vectors.mean(0), vectors.std(0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > TIE * np.maximum(np.abs(mean), TIE))
    _, sizes, axes = np.linalg.svd((vectors - mean) * scale, full_matrices=False)
    count = max(1, min(MOST_COMPONENTS, len(vectors) // SAMPLES_PER_COMPONENT, int((sizes > TIE * sizes[0]).sum())))
    turn = (axes[:count] / np.maximum(sizes[:count, None], TIE)).T * math.sqrt(len(vectors))
    return lambda rows: np.asarray(((rows - mean) * scale) @ turn, dtype=np.float64)


def _penalty(vectors: Floats, labels: NDArray[np.int_], units: NDArray[np.str_], rng: np.random.Generator) -> float:
    """The penalty under which held-out units are likeliest; the strongest where there are none to hold out."""
    if _fewest_units(labels, units) < FEWEST_UNITS:
        return PENALTIES[0]
    folds = _folds(labels, units, rng)
    return max(PENALTIES, key=lambda penalty: _likelihood(vectors, labels, folds, penalty))


def _likelihood(vectors: Floats, labels: NDArray[np.int_], folds: NDArray[np.intp], penalty: float) -> float:
    """Mean log-likelihood of held-out samples, both sets of equal weight."""
    chance = np.empty(len(labels))
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        fits = ridge_logistic(vectors[~test], labels[~test], np.ones((1, int((~test).sum()))), penalty)
        chance[test] = _chance(fits, vectors[test])[0]
    scores = np.log(np.clip(np.where(labels == 1, chance, 1 - chance), TIE, 1))
    return float(scores[labels == 0].mean() + scores[labels == 1].mean())


def _folds(labels: NDArray[np.int_], units: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.intp]:
    """Fold of each sample: the units of each set dealt to the folds in random order, so that all folds hold both."""
    count = min(FOLDS, _fewest_units(labels, units))
    if count < FEWEST_UNITS:
        raise ValueError(f"a set has fewer than {FEWEST_UNITS} independent units: nothing to fit on and hold out")
    folds = np.empty(len(labels), dtype=np.intp)
    for label in (0, 1):
        distinct, index = np.unique(units[labels == label], return_inverse=True)
        dealt = np.empty(len(distinct), dtype=np.intp)
        dealt[rng.permutation(len(distinct))] = np.arange(len(distinct)) % count
        folds[labels == label] = dealt[index]
    return folds


def _fewest_units(labels: NDArray[np.int_], units: NDArray[np.str_]) -> int:
    return min(len(np.unique(units[labels == label])) for label in (0, 1))


def _terms(
    losses: tuple[Floats, Floats], weights: tuple[Floats, Floats], resampled: tuple[Floats, Floats]
) -> list[Floats]:
    """The three terms by losses (n,), (m,), weights and multiplicities (B, n), (B, m): each (B,)."""
    plain = [_mean(times, loss) for times, loss in zip(resampled, losses, strict=True)]
    shared = [_mean(times * weight, loss) for times, weight, loss in zip(resampled, weights, losses, strict=True)]
    return [shared[0] - plain[0], shared[1] - shared[0], plain[1] - shared[1]]


def _mean(weights: Floats, values: Floats) -> Floats:
    mass = weights.sum(axis=1)
    means: Floats = np.divide(weights @ values, mass, out=np.full(len(mass), math.nan), where=mass > 0)
    return means


def _effective(weights: Floats) -> float:
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
