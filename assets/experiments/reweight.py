"""Re-weighting: what cannot be edited into pixels is weighted as if its share were the other set's.

Belongs here: weights of labelled pixels by class, and losses under them. Does not: forwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assets.experiments.operators import Floats, NotApplicable, Parameters

LIMIT = 50.0
"""Odds are multiplied by at most this much either way."""
SMALLEST_SHARE = 0.005
SAME_SHARE = 0.002
STEPS = 60
SHORTFALL = 0.1
"""Share of the mass by which a sham may miss: a class that few pictures show can't take as much."""


@dataclass(frozen=True)
class ClassShare:
    """Pixels of one class weighted so that its mean share per picture becomes the destination's.

    Within a picture with share p of the class, its pixels weigh ρ times the others: p' = ρp/(ρp + 1 − p). ρ is the
    root of mean p' = destination's mean share (post-stratification with one parameter).
    """

    class_index: int

    def fit(self, destination: Floats, origin: Floats) -> Parameters:
        """ρ from labelled pixels (n, C) of both sets. Raises NotApplicable where shares agree or there are none."""
        wanted = float(_shares(destination)[:, self.class_index].mean())
        present = _shares(origin)[:, self.class_index]
        return {"class_index": self.class_index, "odds": _odds(present, wanted), "wanted_share": round(wanted, 6)}

    def weights(self, class_count: int, parameters: Parameters) -> Floats:
        """ρ for the class, 1 for the others."""
        weights = np.ones(class_count)
        weights[parameters["class_index"]] = parameters["odds"]
        return weights

    def shams(self, destination: Floats, origin: Floats) -> list[Parameters]:
        """As much mass moved to or from each other class that can take it."""
        present = _shares(origin)
        moved = float(_shares(destination)[:, self.class_index].mean() - present[:, self.class_index].mean())
        found = []
        for other in range(present.shape[1]):
            wanted = float(present[:, other].mean()) + moved
            if other != self.class_index and SMALLEST_SHARE < wanted < 1 - SMALLEST_SHARE:
                try:
                    odds = _odds(present[:, other], wanted)
                except NotApplicable:
                    continue
                if abs(_mean_share(present[:, other], odds) - wanted) <= SHORTFALL * abs(moved):
                    found.append({"class_index": other, "odds": odds})
        return found


def weighted_losses(loss_sum: Floats, pixels: Floats, weights: Floats) -> Floats:
    """Each sample's mean loss under class weights: Σ w_c L_c / Σ w_c n_c. (n, C), (n, C), (C,) -> (n,)."""
    mass = pixels @ weights
    losses: Floats = np.divide(loss_sum @ weights, mass, out=np.full(len(mass), np.nan), where=mass > 0)
    return losses


def recomposed_losses(loss_sum: Floats, pixels: Floats, weights: Floats, class_losses: Floats | None) -> Floats:
    """Each sample's mean loss were its pixels composed by the weights, by both sets' class losses. (n,).

    What a moved pixel costs depends on whose losses count: the sample's own, or the other set's. As in Kitagawa's split
    (1955) neither is preferred: the answer is the mean of both. Without the other set's, the sample's own decide.

    Args:
        loss_sum: (n, C) loss summed over each class's pixels.
        pixels: (n, C) labelled pixels.
        weights: (C,) weight of a pixel of each class.
        class_losses: (C,) mean loss of the other set's pixels of each class, or None.
    """
    own = weighted_losses(loss_sum, pixels, weights)
    if class_losses is None:
        return own
    before = weighted_losses(loss_sum, pixels, np.ones_like(weights))
    moved = _shares(pixels * weights) - _shares(pixels)
    recomposed: Floats = (own + before + moved @ class_losses) / 2
    return recomposed


def mean_class_losses(loss_sum: Floats, pixels: Floats) -> Floats:
    """Mean loss of a set's pixels of each class, (C,); NaN for a class without pixels."""
    total = pixels.sum(0)
    means: Floats = np.divide(loss_sum.sum(0), total, out=np.full(len(total), np.nan), where=total > 0)
    return means


def _shares(pixels: Floats) -> Floats:
    total = pixels.sum(1, keepdims=True)
    shares: Floats = np.divide(pixels, total, out=np.zeros_like(pixels, dtype=np.float64), where=total > 0)
    return shares


def _mean_share(shares: Floats, odds: float) -> float:
    """Mean over pictures of ρp/(ρp + 1 − p)."""
    return float((odds * shares / (odds * shares + 1 - shares)).mean())


def _odds(shares: Floats, wanted: float) -> float:
    """ρ with mean ρp/(ρp + 1 − p) = wanted, by bisection of its logarithm."""
    if shares.mean() < SMALLEST_SHARE or not SMALLEST_SHARE < wanted < 1:
        raise NotApplicable(f"too few pixels of the class on a side (mean share {shares.mean():.3f} and {wanted:.3f})")
    if abs(shares.mean() - wanted) < SAME_SHARE:
        raise NotApplicable(f"the mean share is the same on both sides ({wanted:.3f})")
    low, high = -np.log(LIMIT), np.log(LIMIT)
    for _ in range(STEPS):
        middle = (low + high) / 2
        odds = float(np.exp(middle))
        if _mean_share(shares, odds) < wanted:
            low = middle
        else:
            high = middle
    return round(float(np.exp((low + high) / 2)), 6)
