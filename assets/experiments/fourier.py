"""Low-frequency amplitudes: Fourier domain adaptation.

Belongs here: the operator that swaps amplitudes around the origin of the spectrum. Its `apply` uses torch alone, since
the recipe carries its source text. Does not: traits of the spectrum (`assets/traits/texture.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.experiments.operators import NotApplicable, Parameters, SetStatistics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LowFrequencies:
    """Amplitudes within the window [c−b, c+b+1) around zero frequency become the destination's mean; phases stay.

    Yang & Soatto (2020), FDA; b = ⌊min(h, w)·β⌋. They draw one destination picture for each; the mean amplitude of some
    pictures makes one map for the set. The window is symmetric: one without its last row and column would not be that
    of a real picture.
    """

    beta: float

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
        """Mean amplitudes (3, 2b+1, b+1) of the destination's few pictures, per pixel: half a window has them all."""
        import torch

        pictures = destination.pictures
        reach = math.floor(min(pictures.shape[2:]) * self.beta)
        if reach < 1:
            raise NotApplicable(
                f"β = {self.beta:g} leaves nothing of pictures of {tuple(pictures.shape[2:])} but means"
            )
        spectrum = torch.fft.rfft2(pictures, norm="forward").abs().mean(0)
        window = torch.cat([spectrum[:, -reach:], spectrum[:, : reach + 1]], dim=1)[:, :, : reach + 1]
        return {"amplitudes": [[[float(f"{v:.5g}") for v in row] for row in plane] for plane in window.tolist()]}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Give the window of each picture's spectrum the amplitudes learned."""
        import torch

        wanted = batch.new_tensor(parameters["amplitudes"])
        reach = wanted.shape[2] - 1
        spectrum = torch.fft.rfft2(batch, norm="forward")
        for rows, part in ((slice(-reach, None), wanted[:, :reach]), (slice(0, reach + 1), wanted[:, reach:])):
            present = spectrum[:, :, rows, : reach + 1]
            spectrum[:, :, rows, : reach + 1] = present / present.abs().clamp(min=1e-12) * part
        changed: Tensor = torch.fft.irfft2(spectrum, s=batch.shape[2:], norm="forward")
        return changed.clamp(0, 1)
