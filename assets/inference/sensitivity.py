"""Where in a picture the loss comes from, as the model's deepest features see it: Grad-CAM on the segmentation loss.

Belongs here: weighting feature maps by the gradient of a loss. Does not: forwards for tables, drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resources.datasets.base import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from resources.model import SegmentationModel


def loss_sensitivity(
    model: SegmentationModel, picture: Tensor, mask: NDArray[np.uint8], classes: Sequence[int | None]
) -> list[NDArray[np.float32] | None]:
    """One map (h, w) of the deepest stage for each entry of `classes`: None is the loss of all labelled pixels.

    `picture` (3, H, W) in 0..1 at the model's input, `mask` (H, W) at its pixels. With A the stage's feature maps, M
    the labelled pixels (those labelled c, where a class is given) and L the mean cross-entropy over M, the map is
    ReLU(Σ_k a_k A_k), a_k = mean over places of ∂L/∂A_k: bright where the features lie whose growth raises the loss.
    In nats per place; no map where M is empty. Raises ModelError for a network without gradients.

    Grad-CAM (Selvaraju et al. 2017) with the set of pixels of Seg-Grad-CAM (Vinogradova et al. 2020), and the loss in
    the place of their class score.
    """
    import torch
    from torch.nn import functional

    outputs = model.with_gradients(picture[None])
    features = outputs.latent
    target = torch.from_numpy(mask.astype(np.int64)).to(features.device)
    losses = functional.cross_entropy(
        outputs.logits, torch.where(target == IGNORE, -1, target)[None], ignore_index=-1, reduction="none"
    )[0]
    maps: list[NDArray[np.float32] | None] = []
    for chosen in classes:
        counted = target != IGNORE if chosen is None else target == chosen
        if not bool(counted.any()):
            maps.append(None)
            continue
        (gradient,) = torch.autograd.grad(losses[counted].mean(), features, retain_graph=True)
        weights = gradient.mean((2, 3), keepdim=True)
        heat = (weights * features).sum(1).clamp(min=0)[0]
        maps.append(heat.detach().float().cpu().numpy())
    return maps
