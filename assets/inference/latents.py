"""How the model sees a picture: latent vectors, for the whole picture, per class region and per encoder stage.

Belongs here: pooling of feature maps into rows. Does not: forwards, distances between sets (scoring).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from resources.model import Outputs

EMBEDDING_SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "fingerprint": pl.String,
    "latent": pl.List(pl.Float32),
    "region_classes": pl.List(pl.Int32),
    "region_vectors": pl.List(pl.Float32),
    "stage_channels": pl.List(pl.Int32),
    "stage_mean": pl.List(pl.Float32),
    "stage_std": pl.List(pl.Float32),
}


def latents(outputs: Outputs) -> NDArray[np.float32]:
    """The deepest feature map averaged over the picture, (n, d)."""
    return outputs.latent.mean((2, 3)).cpu().numpy()


def embedding_rows(outputs: Outputs, ids: list[str], fingerprints: list[str]) -> list[dict[str, Any]]:
    """Rows of the embeddings table for one batch.

    Region vectors are the deepest features averaged over each class of the *prediction* (so that they exist without
    labels); classes that the prediction lacks have none. Stage means and deviations are per channel over the picture,
    all stages joined, shallow to deep.
    """
    whole = latents(outputs)
    regions = _region_means(outputs.latent, outputs.logits)
    channels = [int(stage.shape[1]) for stage in outputs.stages]
    means = _joined([stage.mean((2, 3)) for stage in outputs.stages])
    deviations = _joined([_deviation(stage) for stage in outputs.stages])
    return [
        {
            "sample_id": sample_id,
            "fingerprint": fingerprints[i],
            "latent": whole[i].tolist(),
            "region_classes": regions[i][0].tolist(),
            "region_vectors": regions[i][1].ravel().tolist(),
            "stage_channels": channels,
            "stage_mean": means[i].tolist(),
            "stage_std": deviations[i].tolist(),
        }
        for i, sample_id in enumerate(ids)
    ]


def vectors(table: pl.DataFrame, column: str = "latent") -> NDArray[np.float32]:
    """A list column of equal lengths as an array (n, d)."""
    if table.is_empty():
        return np.empty((0, 0), np.float32)
    return np.asarray(table[column].list.to_array(table[column].list.len()[0]).to_numpy(), dtype=np.float32)


def region_latents(table: pl.DataFrame, class_index: int) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and vectors (n, d) of the samples in which a class was predicted."""
    ids, found = [], []
    rows = table.select("sample_id", "region_classes", "region_vectors").iter_rows()
    for sample_id, classes, flat in rows:
        if class_index in classes:
            width = len(flat) // len(classes)
            start = classes.index(class_index) * width
            ids.append(sample_id)
            found.append(flat[start : start + width])
    return ids, np.asarray(found, dtype=np.float32)


def _region_means(features: Tensor, logits: Tensor) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    import torch
    from torch.nn import functional

    classes = logits.shape[1]
    small = functional.interpolate(logits, size=features.shape[-2:], mode="bilinear", align_corners=False)
    regions = functional.one_hot(small.argmax(1).flatten(1), classes).to(features.dtype)
    pixels = regions.sum(1)
    means = torch.einsum("npc,ndp->ncd", regions, features.flatten(2)) / pixels.clamp(min=1)[..., None]
    found = []
    for counts, vectors_of in zip(pixels.cpu().numpy(), means.cpu().numpy(), strict=True):
        present = np.flatnonzero(counts)
        found.append((present.astype(np.int32), vectors_of[present]))
    return found


def _deviation(stage: Tensor) -> Tensor:
    """Population deviation by picture and channel; std() takes about five times as long on a processor."""
    return (stage - stage.mean((2, 3), keepdim=True)).square_().mean((2, 3)).sqrt_()


def _joined(parts: list[Tensor]) -> NDArray[np.float32]:
    import torch

    return torch.cat(parts, 1).cpu().numpy()
