"""Changes of the model instead of the picture.

Belongs here: model operators. Does not: training from scratch (inference/training.py), trials.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from assets.experiments.operators import NotApplicable
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 8
FEWEST_PICTURES = 8


class BatchNormReestimation:
    """Batch-norm statistics re-estimated on the target, mixed with the source's as a prior (Schneider et al. 2020).

    μ = share·μ_target + (1 − share)·μ_source, variances alike. No labels are used. The sham permutes the shift among
    the channels of each layer: a change of the same size that is not aimed.
    """

    def __init__(self, share: float = 0.3) -> None:
        self.share = share

    def adapt(self, model: SegmentationModel, fit_pictures: Tensor, *, sham: bool = False) -> SegmentationModel:
        """A copy of the model with mixed statistics.

        Raises NotApplicable for a network without batch norm, and for one that came as an exported file.
        """
        import torch
        from torch import nn

        if not isinstance(model.network, nn.Module):
            raise NotApplicable(
                f"{model.network.kind} runs as it was exported, its batch norm can't be re-estimated; "
                "give the network and its state dict"
            )
        network: Any = copy.deepcopy(model.network)
        layers = [layer for layer in network.modules() if is_batch_norm(layer)]
        if not layers:
            raise NotApplicable("the network has no batch-norm layers")
        if len(fit_pictures) < FEWEST_PICTURES:
            raise NotApplicable(
                f"{len(fit_pictures)} pictures to re-estimate on, at least {FEWEST_PICTURES} are needed"
            )
        source = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
        estimate_statistics(network, layers, [model.normalised(part) for part in torch.split(fit_pictures, BATCH)])
        order = torch.Generator().manual_seed(0)
        for layer, (mean, variance) in zip(layers, source, strict=True):
            if not layer.num_batches_tracked:  # a layer that no forward reaches keeps what it had
                layer.running_mean, layer.running_var = mean, variance
                continue
            mean_shift = layer.running_mean - mean
            log_shift = torch.log((layer.running_var + layer.eps) / (variance + layer.eps))
            if sham:
                permuted = torch.randperm(len(mean), generator=order).to(mean.device)
                relative = mean_shift / (variance + layer.eps).sqrt()
                mean_shift = relative[permuted] * (variance + layer.eps).sqrt()
                log_shift = log_shift[permuted]
            target_variance = (variance + layer.eps) * log_shift.exp() - layer.eps
            layer.running_mean = mean + self.share * mean_shift
            layer.running_var = ((1 - self.share) * variance + self.share * target_variance).clamp(min=0)
        version = fingerprint(model.fingerprint, "batch_norm", self.share, sham, float(fit_pictures.double().sum()))
        return SegmentationModel(network, model.config, model.class_count, version, str(model.device), model.compute)


def is_batch_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises by running statistics of batches."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(layer, _BatchNorm) and layer.track_running_stats


def estimate_statistics(network: nn.Module, layers: list[nn.Module], batches: Iterable[Tensor]) -> None:
    """Leave in the layers the average of the batches' statistics; the rest of the network stays in evaluation mode."""
    import torch

    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()  # type: ignore[operator]
        layer.momentum = None  # type: ignore[assignment]
        layer.train()
    with torch.no_grad():
        for batch in batches:
            if len(batch) > 1:
                network(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
