"""What the model's own outputs say of its loss and accuracy on pictures without labels: sums, and reading them.

Belongs here: per-sample sums at evaluation time that need no label, and the loss that a calibration reads from them.
Does not: fitting a calibration, errors of the estimate, gaps (diagnosis).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

TEMPERATURES = tuple(float(2 ** (step / 6)) for step in range(-6, 19))
"""From 0.5 to 8, each 12% above the one before: a scale takes up what lies between two of them."""
PIXELS = 4096
"""Pixels of a sample that are looked at, evenly strided: means over a set need no more."""
BINS = 120
CONFIDENCE_EDGES = np.linspace(-6.0, 18.0, BINS + 1)
"""Log-odds of the confidence: near certainty its own scale has no room for a threshold."""
ENTROPY_EDGES = np.linspace(-3.0, 21.0, BINS + 1)
"""Negative logarithm of the entropy in nats, for the same reason."""
TINY = 1e-12

ESTIMATION_SCHEMA: dict[str, Any] = {
    "expected_loss": pl.List(pl.Float64),
    "expected_pixels": pl.List(pl.Float64),
    "confidence_bins": pl.List(pl.Int64),
    "entropy_bins": pl.List(pl.Int64),
}


@dataclass(frozen=True)
class Calibration:
    """How the loss of a picture without labels is read from the model's outputs; fitted in diagnosis.

    A picture's loss is `scale`·h^`power`, h its mean expected loss at the temperature `TEMPERATURES[step]`. `missed`
    are logarithms of true over estimated mean loss, seen on labelled imitations that the fit did not know; `spread` is
    the standard deviation of the logarithm of the scale.
    """

    step: int
    scale: float
    power: float
    missed: tuple[float, ...]
    spread: float

    @property
    def temperature(self) -> float:
        """By which logits are divided."""
        return TEMPERATURES[self.step]

    @property
    def error(self) -> float:
        """Root mean square of the logarithm of true over estimated mean loss."""
        return math.sqrt(float(np.mean(np.square(self.missed))) + self.spread**2)

    def loss(self, expected: Floats) -> Floats:
        """Estimated losses of expected ones."""
        found: Floats = self.scale * expected**self.power
        return found

    def factors(self, draws: int, rng: np.random.Generator) -> Floats:
        """Draws of true over estimated loss, (draws,): the estimator's own error, one for a whole set.

        Errors are drawn from those that were seen, since they are lopsided: a model is seldom less sure than it ought
        to be, and often much surer.
        """
        found: Floats = np.exp(rng.choice(self.missed, draws) + self.spread * rng.standard_normal(draws))
        return found

    def as_values(self) -> dict[str, Any]:
        """Plain values to store."""
        return asdict(self)

    @classmethod
    def of_values(cls, stored: Mapping[str, Any]) -> Calibration:
        """What `as_values` stored."""
        return cls(**{**stored, "missed": tuple(stored["missed"])})


def estimation_columns(logits: Tensor) -> dict[str, Any]:
    """The label-free columns of one sample's evaluation row; logits (C, H, W) at the model's own resolution.

    `expected_loss`, `expected_pixels`: (temperatures, C) of `expected_sums`, flat. `confidence_bins`, `entropy_bins`:
    pixels by confidence (log-odds) and by negative log-entropy.
    """
    import torch

    scores = strided_pixels(logits).contiguous()
    logs = scores.log_softmax(0)
    sums = torch.stack([_expected(scores, logs, temperature) for temperature in TEMPERATURES], 1)
    loss, pixels = sums.flatten(1).cpu().numpy()
    shares = logs.exp()
    peak = logs.max(0).values
    rest = (1 - peak.double().exp()).clamp(min=TINY)
    entropy = -(shares * logs).sum(0)
    return {
        "expected_loss": loss.tolist(),
        "expected_pixels": pixels.tolist(),
        "confidence_bins": _histogram(peak.double() - rest.log(), CONFIDENCE_EDGES),
        "entropy_bins": _histogram(-entropy.double().clamp(min=TINY).log(), ENTROPY_EDGES),
    }


def strided_pixels(logits: Tensor) -> Tensor:
    """Some `PIXELS` pixels of logits (C, H, W), evenly strided: (C, P). The same ones for every sample of a size."""
    count, width = logits.shape[1] * logits.shape[2], logits.shape[2]
    stride = max(1, count // PIXELS)
    while math.gcd(stride, width) > 1:  # else whole columns would be left out
        stride += 1
    return logits.reshape(logits.shape[0], -1)[:, ::stride]


def expected_sums(scores: Tensor, temperature: float) -> tuple[Floats, Floats]:
    """Loss and pixels by class that pixels' calibrated probabilities lead one to expect; scores (C, P).

    With q = softmax(z / T) taken for the law of the true class (Guo et al. 2017) and p = softmax(z), whose loss it is:
    loss_c = Σ −q_c·log p_c and pixels_c = Σ q_c, each (C,). Where T minimises the cross-entropy of labels under q,
    Σ_c loss_c equals the loss under p: that is the minimum's first-order condition.
    """
    loss, pixels = _expected(scores, scores.log_softmax(0), temperature).cpu().numpy()
    return loss, pixels


def _expected(scores: Tensor, logs: Tensor, temperature: float) -> Tensor:
    """Both sums of `expected_sums`, (2, C), of scores and their log-softmax `logs`, (C, P)."""
    import torch

    shares = (scores / temperature).softmax(0)
    pixels = shares.double().sum(1)
    return torch.stack([-shares.mul_(logs).double().sum(1), pixels])


def estimated_sums(scores: Tensor, calibration: Calibration) -> tuple[Floats, Floats]:
    """Loss and pixels by class, each (C,), as they are estimated without labels; scores (C, P)."""
    loss, pixels = expected_sums(scores, calibration.temperature)
    return rescaled(loss, pixels, calibration), pixels


def rescaled(loss: Floats, pixels: Floats, calibration: Calibration) -> Floats:
    """Expected loss sums (…, C) brought to what the calibration makes of their mean over `pixels` (…, C)."""
    mean = loss.sum(-1, keepdims=True) / pixels.sum(-1, keepdims=True)
    found: Floats = loss * np.divide(calibration.loss(mean), mean, out=np.ones_like(mean), where=mean > 0)
    return found


def _histogram(values: Tensor, edges: Floats) -> list[int]:
    import torch

    place = ((values - edges[0]) / (edges[1] - edges[0])).long().clamp(0, BINS - 1)
    counts: list[int] = torch.bincount(place, minlength=BINS).tolist()
    return counts
