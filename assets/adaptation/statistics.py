"""What changes few numbers of the network: batch-norm statistics, scale and shift by entropy, the last layer's bias.

Belongs here: batch norm with a prior, TENT, class-prior correction. Does not: training of weights at large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.adaptation.networks import look, normalisation_parameters
from assets.adaptation.streams import Material
from assets.adaptation.training import Descent
from assets.experiments.model_side import estimate_statistics, is_batch_norm
from assets.experiments.operators import NotApplicable
from assets.inference.losses import at_label_pixels, pixel_sums
from resources.model import SegmentationModel
from resources.pictures import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Floats = NDArray[np.float64]

PRIOR_PICTURES = 16
"""How many target pictures the source's statistics, and its class shares, count for."""
GUARDED = 16
CHECK_EVERY = 4
TOLERANCE = 0.05
"""How much of its loss the source may lose, on guarded pictures, before TENT stops."""
MOST_PIXELS = 50_000
"""Pixels of the fit half that the expectation maximisation holds, spread evenly over its pictures."""
FEWEST_OF_PICTURE = 16
ROUNDS = 500
CONVERGED = 1e-6
SMALLEST_SHARE = 1e-6


def reestimated(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Mix the batches' batch-norm statistics into the network's, in place; returns how many pictures there were.

    μ = n/(n+N)·μ_target + N/(n+N)·μ_source with N = `PRIOR_PICTURES`, variances alike (Schneider et al. 2020).
    Batches are normalised. Raises NotApplicable for a network without batch norm.
    """
    layers: list[Any] = [layer for layer in network.modules() if is_batch_norm(layer)]
    if not layers:
        raise NotApplicable("the network has no batch-norm layers")
    source = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    count = 0

    def counted() -> Iterator[Tensor]:
        nonlocal count
        for batch in batches:
            count += len(batch) if len(batch) > 1 else 0
            yield batch

    estimate_statistics(network, layers, counted())
    share = count / (count + PRIOR_PICTURES)
    for layer, (mean, variance) in zip(layers, source, strict=True):
        reached = bool(layer.num_batches_tracked)
        own = share if reached else 0.0  # a layer that no forward reaches keeps what it had
        layer.running_mean = own * layer.running_mean + (1 - own) * mean if reached else mean
        layer.running_var = own * layer.running_var + (1 - own) * variance if reached else variance
    return count


class Tent(Descent):
    """Mean entropy of the predictions, by scale and shift of batch norm alone, under a guard on source pictures.

    Statistics stay the source's, so that what is measured is the entropy's doing and not theirs (`batch_norm` is a
    method of its own); the result is then plain weights, too.
    """

    guarded = True

    def __init__(self, material: Material, network: nn.Module, seed: int) -> None:
        import torch
        from torch import nn

        self.material, self.model = material, material.model
        self.chosen = normalisation_parameters(network)
        self.stream = material.target(seed)
        self.last = one_pass(material)
        if not material.guarded:
            raise NotApplicable("the holdout's fit half has no labelled picture to guard the source with")
        self.beside = nn.Module()
        self.beside.register_buffer("bound", torch.tensor(float("inf")))

    def prepare(self, network: nn.Module) -> None:
        """The most that guarded pictures may lose, from what they lose before the first step."""
        self.beside.bound.fill_((1 + TOLERANCE) * self._guarded_loss(network))  # type: ignore[operator]

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Target pictures as they are."""
        return self.stream.batches(first, end)

    def loss(self, network: nn.Module, batch: Batch, progress: float, draws: torch.Generator) -> Tensor:  # noqa: ARG002
        """Mean entropy over all pixels, in nats."""
        logits = look(network.eval(), self.model.normalised(batch.reduced), self.model.config.embedding_layer).logits
        logs = logits.log_softmax(1)
        return -(logs.exp() * logs).sum(1).mean()

    def accepts(self, network: nn.Module, step: int) -> bool | None:
        """Whether guarded pictures lose no more than they may; looked at every few steps and after the last."""
        if step % CHECK_EVERY and step != self.last:
            return None
        bound: Any = self.beside.bound
        return self._guarded_loss(network) <= float(bound)

    def _guarded_loss(self, network: nn.Module) -> float:
        own = self.model
        model = SegmentationModel(network, own.config, own.class_count, own.fingerprint, str(own.device), own.compute)
        losses = []
        material = self.material
        for batch in material.engine.batches("source", list(material.guarded[:GUARDED])):
            logits = model(batch.reduced).logits
            for scores, picture in zip(logits, batch.pictures, strict=True):
                if picture.mask is not None:
                    mask = picture.mask
                    losses.append(pixel_sums(at_label_pixels(scores, (mask.shape[0], mask.shape[1])), mask).loss)
        return float(np.nanmean(losses))


def one_pass(material: Material) -> int:
    """Steps in which every picture of the fit half is seen once."""
    return -(-len(material.fit) // material.batch_size)


def corrected_prior(
    network: nn.Module, model: SegmentationModel, reference_pixels: Floats, fit: list[Tensor], pictures: int
) -> Floats:
    """Put the fit half's class shares into the bias of the last convolution, in place; returns the shares (C,).

    `fit`: predictions' log-probabilities (k, C) of pixels of `pictures` pictures.
    Raises NotApplicable where no bias shifts the logits alone.
    """
    import torch

    posteriors = torch.cat(fit).double().exp().cpu().numpy()
    prior = reference_pixels / reference_pixels.sum()
    shares = estimated_prior(posteriors, prior, PRIOR_PICTURES / (pictures + PRIOR_PICTURES))
    known = prior > 0
    shift = np.zeros_like(prior)
    shift[known] = np.log(np.maximum(shares[known], SMALLEST_SHARE) / prior[known])
    _shift_logits(network, model, torch.tensor(shift, dtype=torch.float32, device=model.device))
    return shares


def estimated_prior(posteriors: Floats, prior: Floats, weight: float = 0.0) -> Floats:
    """Class shares of a set from posteriors (n, C) made under a prior (C,), by EM (Saerens et al. 2002).

    q ← mean over pixels of p·q/π, normalised pixel by pixel, from q = π until it stays. Classes with π = 0 keep 0.
    `weight` is that of π in each new q (a Dirichlet prior): overconfident predictions would drive rare classes to 0.
    """
    known = prior > 0
    ratios = posteriors[:, known] / prior[known]
    shares = prior[known].copy()
    for _ in range(ROUNDS):
        weighted = ratios * shares
        found = (weighted / np.maximum(weighted.sum(1, keepdims=True), 1e-300)).mean(0)
        updated = (1 - weight) * found + weight * prior[known]
        moved = np.abs(updated - shares).max()
        shares = updated
        if moved < CONVERGED:
            break
    estimated = np.zeros_like(prior)
    estimated[known] = shares
    return estimated


def sampled_pixels(logits: Tensor, wanted: int) -> Tensor:
    """Log-probabilities (k, C) of about `wanted` pixels of one picture's logits (C, H, W), evenly spread."""
    flat = logits.log_softmax(0).flatten(1)
    stride = max(1, round(flat.shape[1] / wanted)) | 1  # odd, so that it does not step down the same few columns
    return flat[:, ::stride].T


def pixels_of_picture(pictures: int) -> int:
    """How many pixels of each picture are looked at."""
    return max(FEWEST_OF_PICTURE, MOST_PIXELS // max(1, pictures))


def _shift_logits(network: nn.Module, model: SegmentationModel, shift: Tensor) -> None:
    """Add to the last convolution's bias what should be added to the logits, and check that this is what happens."""
    import torch
    from torch import nn

    candidates = [
        layer for layer in network.modules()
        if isinstance(layer, nn.Conv2d) and layer.out_channels == model.class_count and layer.bias is not None
    ]  # fmt: skip
    if not candidates:
        raise NotApplicable("the network ends in no convolution with a bias for each class")
    height, width = model.input_size
    blank = model.normalised(torch.zeros(1, 3, height, width))
    with torch.no_grad():
        before = look(network, blank, model.config.embedding_layer).logits
        candidates[-1].bias += shift  # type: ignore[operator]
        after = look(network, blank, model.config.embedding_layer).logits
    if not torch.allclose(after, before + shift[:, None, None], atol=1e-3, rtol=1e-3):
        raise NotApplicable("the last convolution's bias is not added to the logits as it is")
