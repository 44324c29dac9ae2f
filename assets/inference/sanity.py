"""Does a checkpoint behave like a trained model on a few labelled pictures, and would another way to feed it do better?

Belongs here: losses of a sample under variants of the input, chance, order of the classes. Does not: the config, words.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.inference.losses import PixelSums, at_label_pixels, pixel_sums
from assets.statistics.segmentation import mean_iou
from resources.config import ModelConfig
from resources.pictures import Picture, to_input

if TYPE_CHECKING:
    from torch import Tensor

    from resources.model import SegmentationModel

ALPHA = 0.05
LEAST_BETTER = 0.02
"""Share of the loss that another way to feed the model must save before it is worth a word."""
LEAST_PERMUTED = 0.1
"""Pixel accuracy that another order of the classes must add before it is taken for the order of the output."""
PLAIN, HALVES = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BYTES = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
NORMALISATIONS = {
    "ImageNet's mean and std": IMAGENET, "mean 0 and std 1 (pictures in 0..1)": PLAIN,
    "mean 0.5 and std 0.5 (pictures in −1..1)": HALVES, "mean 0 and std 1/255 (pictures in 0..255)": BYTES,
}  # fmt: skip
SCALES = (0.5, 1.5)
FORWARDS = 8
"""Forwards of each picture, by which the sample is cut to the time there is."""
FEWEST = 8
"""With fewer pictures no sign test over all variants can come out beyond chance."""


@dataclass(frozen=True)
class Variant:
    """Another way to feed the model: a map of the picture as bytes, an input size, mean and deviation.

    `setting` is the key of the config that it changes, `value` what it would be.
    """

    name: str
    setting: str
    value: Any
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    exchanged: bool = False


@dataclass(frozen=True)
class Compared:
    """A variant's mean loss beside the configured one's, and in how many pictures it is lower."""

    variant: Variant
    loss: float
    lower: int
    pictures: int
    p_value: float

    def is_better(self, configured: float, variants: int) -> bool:
        """Lower beyond chance (a one-sided sign test, corrected for the number of variants) and worth a word."""
        return self.p_value * variants <= ALPHA and self.loss < (1 - LEAST_BETTER) * configured


@dataclass(frozen=True)
class Sanity:
    """How the model does on a few labelled pictures.

    `uniform` is the loss of equal probabilities, `prior` that of the sample's own class shares whatever the picture.
    `order` is the class that each output channel answers to best, where another order fits far better, else None.
    """

    pictures: int
    loss: float
    accuracy: float
    miou: float
    uniform: float
    prior: float
    compared: list[Compared]
    order: list[int] | None
    order_accuracy: float
    seconds_per_picture: float

    @property
    def better(self) -> list[Compared]:
        """Variants that do better, the best first."""
        found = [one for one in self.compared if one.is_better(self.loss, len(self.compared))]
        return sorted(found, key=lambda one: one.loss)


def examine(
    model: SegmentationModel,
    pictures: Sequence[Picture],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Sanity:
    """Look at a model on labelled pictures, in about `seconds`: fewer pictures and variants where it is slow.

    Raises ModelError where the model can't run.
    """
    began = clock()
    _sums(model, pictures[0], None)  # the first forward of a process is slower
    warm = clock()
    first = _sums(model, pictures[0], None)
    affordable = max(FEWEST, int(seconds / FORWARDS / max(clock() - warm, 1e-6)))
    pictures = pictures[:: math.ceil(len(pictures) / affordable)]
    sums = [first, *(_sums(model, picture, None) for picture in pictures[1:])]
    each = (clock() - warm) / len(pictures)
    losses = np.array([one.loss for one in sums])
    confusion = np.sum([one.confusion for one in sums], axis=0)
    compared = []
    for variant in variants(model.config):
        if clock() - began + len(pictures) * each * _area(variant, model.config) > seconds:
            continue
        other = np.array([_sums(model, picture, variant).loss for picture in pictures])
        lower = int((other < losses).sum())
        compared.append(Compared(variant, float(other.mean()), lower, len(other), sign_test(lower, len(other))))
    order, order_accuracy = class_order(confusion)
    return Sanity(
        len(pictures), float(losses.mean()), float(np.trace(confusion) / confusion.sum()), mean_iou(confusion),
        math.log(model.class_count), prior_entropy(confusion.sum(axis=1)), compared, order, order_accuracy, each,
    )  # fmt: skip


def variants(config: ModelConfig) -> list[Variant]:
    """Ways to feed a model that are mistaken for one another: order of colours, normalisation, scale."""
    own = Variant("red and blue exchanged (BGR)", "colours", "BGR", config.input_size, config.mean, config.std)
    found = [replace(own, exchanged=True)]
    for name, (mean, std) in NORMALISATIONS.items():
        if not np.allclose([*mean, *std], [*config.mean, *config.std], atol=1e-3):
            found.append(replace(own, name=name, setting="mean, std", value=(mean, std), mean=mean, std=std))
    for scale in SCALES if config.exported is None else ():
        size = _scaled(config.input_size, scale)
        found.append(replace(own, name=f"input_size {list(size)}", setting="input_size", value=size, input_size=size))
    return found


def sign_test(lower: int, count: int) -> float:
    """One-sided p-value of `lower` or more successes out of `count` at even odds (exact)."""
    return float(sum(math.comb(count, k) for k in range(lower, count + 1)) / 2**count)


def prior_entropy(class_pixels: NDArray[np.int64]) -> float:
    """Entropy in nats of the class shares: the least loss of an answer that does not look at the picture."""
    shares = class_pixels[class_pixels > 0] / class_pixels.sum()
    return float(-(shares * np.log(shares)).sum())


def class_order(confusion: NDArray[np.int64]) -> tuple[list[int] | None, float]:
    """The class that each output channel answers to best, one to one, and the pixel accuracy under that order.

    None instead of an order where it is not better by `LEAST_PERMUTED` than the given order and than always the same
    class (rows true, columns predicted).
    """
    from scipy.optimize import linear_sum_assignment

    true, channel = linear_sum_assignment(-confusion)
    accuracy = float(confusion[true, channel].sum() / confusion.sum())
    plain, constant = np.trace(confusion) / confusion.sum(), confusion.sum(axis=1).max() / confusion.sum()
    if accuracy - max(plain, constant) < LEAST_PERMUTED:
        return None, accuracy
    return [int(own) for own in true[np.argsort(channel)]], accuracy


def _sums(model: SegmentationModel, picture: Picture, variant: Variant | None) -> PixelSums:
    if picture.mask is None:
        raise ValueError(f"{picture.sample_id}: no labels")
    reduced = picture.reduced if variant is None else _fed(model, picture, variant)
    logits = model(reduced[None]).logits[0]
    return pixel_sums(at_label_pixels(logits, (picture.mask.shape[0], picture.mask.shape[1])), picture.mask)


def _fed(model: SegmentationModel, picture: Picture, variant: Variant) -> Tensor:
    """The picture such that the model's own normalisation turns it into the variant's."""
    import torch

    image = np.ascontiguousarray(picture.image[..., ::-1]) if variant.exchanged else picture.image
    batch = to_input(image, variant.input_size)
    mean, std, own_mean, own_std = (
        torch.tensor(values)[:, None, None]
        for values in (variant.mean, variant.std, model.config.mean, model.config.std)
    )
    return (batch - mean) / std * own_std + own_mean


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(32, round(side * scale / 32) * 32) for side in size)
    return height, width


def _area(variant: Variant, config: ModelConfig) -> float:
    return math.prod(variant.input_size) / math.prod(config.input_size)
