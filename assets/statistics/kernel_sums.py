"""Kernel values of all pairs of rows summed by unit: what every permutation and bootstrap of whole units needs.

Belongs here: the sums, MMD² under weights of units, and rows' nearest neighbours in one set, both by blocks on the
processor or a CUDA device. Does not: p-values (two_sample, neighbourhoods), plain distances (distances).

A permutation or a resampling of units weighs all rows of a unit alike, so that U × U sums stand for the N × N matrix
without error. They are sufficient and mergeable: rows added to a unit add their own row of kernel values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.distances import Floats, Kernel, row_blocks

SINGLE_ABOVE = 4_000
"""More rows than this go through in float32, which a processor multiplies twice as fast. Products of unit vectors are
then off by about 1e-7 and means over the 16 million pairs and more by less."""


@dataclass(frozen=True)
class UnitKernelSums:
    """Σ k(xᵢ, xⱼ) over i in unit u, j in unit v, i ≠ j, of the units in sorted order."""

    units: NDArray[np.str_]
    """(U,) names."""
    sizes: Floats
    """(U,) rows of each."""
    sums: Floats
    """(U, U)."""

    def mmd(self, weights_x: ArrayLike, weights_y: ArrayLike) -> Floats:
        """Unbiased MMD² between pairs of weightings of the units.

        With p and q the weights of a row, which are its unit's: Σ_{i≠j} pᵢpⱼkᵢⱼ / Σ_{i≠j} pᵢpⱼ, the same for q, minus
        twice Σ_{i≠j} pᵢqⱼkᵢⱼ / Σ_{i≠j} pᵢqⱼ. Zero-one weights are set labels, multiplicities a bootstrap.

        Args:
            weights_x: (B, U) non-negative.
            weights_y: (B, U) non-negative.

        Returns:
            (B,); NaN where a side has fewer than two weighted rows.
        """
        p, q = np.asarray(weights_x, dtype=np.float64), np.asarray(weights_y, dtype=np.float64)
        to_p, to_q = p @ self.sums, q @ self.sums
        sums = np.stack([(p * to_p).sum(axis=1), (q * to_q).sum(axis=1), (p * to_q).sum(axis=1)])
        pairs = np.stack([self._pairs(p, p), self._pairs(q, q), self._pairs(p, q)])
        means = np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
        result: Floats = means[0] + means[1] - 2 * means[2]
        return result

    def _pairs(self, p: Floats, q: Floats) -> Floats:
        """Σ_{i≠j} pᵢqⱼ over rows."""
        pairs: Floats = (p @ self.sizes) * (q @ self.sizes) - (p * q) @ self.sizes
        return pairs


def unit_kernel_sums(
    vectors: ArrayLike, units: Sequence[str] | NDArray[np.str_], kernels: Sequence[Kernel], device: str = "cpu"
) -> list[UnitKernelSums]:
    """Sums of several kernels by unit, in one pass over the products of all pairs.

    Args:
        vectors: (N, d).
        units: (N,) unit of each row.
        kernels: what to sum; each gets the same products and squared distances.
        device: torch device that the blocks are made on.

    Returns:
        One per kernel. Memory: U² values each, and a block.

    Raises:
        ValueError: units of another length.
    """
    import torch

    names, index, sizes = np.unique(np.asarray(units, dtype=np.str_), return_inverse=True, return_counts=True)
    rows = np.asarray(vectors)
    if len(rows) != len(index):
        raise ValueError(f"{len(rows)} rows but {len(index)} units")
    order = np.argsort(index, kind="stable")
    z, owners = _on_device(rows[order], device), index[order]
    norms = (z * z).sum(dim=1)
    totals = torch.zeros((len(kernels), len(names), len(names)), dtype=torch.float64, device=device)
    for block in row_blocks(len(z), len(z)):
        products, squares = _pairs_from(z, norms, block)
        for total, kernel in zip(totals, kernels, strict=True):
            _add_block(total, kernel(products, squares), owners, block)
    return [UnitKernelSums(names, sizes.astype(np.float64), total.cpu().numpy()) for total in totals]


def nearest_within(vectors: ArrayLike, k: int, device: str = "cpu") -> NDArray[np.intp]:
    """The k nearest other rows of every row, in no particular order.

    Args:
        vectors: (N, d), N > k.
        k: how many.
        device: torch device that the blocks are made on.

    Returns:
        (N, k) indices of rows.
    """
    z = _on_device(np.asarray(vectors), device)
    norms = (z * z).sum(dim=1)
    result = np.empty((len(z), k), dtype=np.intp)
    for block in row_blocks(len(z), len(z)):
        squares = norms - 2 * (z[block] @ z.T)  # a row's own norm does not change the order of its neighbours
        squares[:, block].fill_diagonal_(float("inf"))
        result[block] = squares.topk(k, dim=1, largest=False, sorted=False).indices.cpu().numpy()
    return result


def _on_device(rows: NDArray[Any], device: str) -> Any:
    import torch

    kind = np.float64 if len(rows) <= SINGLE_ABOVE else np.float32
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=kind)).to(device)


def _pairs_from(z: Any, norms: Any, block: slice) -> tuple[Any, Any]:
    """x·y and ‖x − y‖² of a block's rows with themselves and all later ones: the pairs before are the mirror image."""
    products = z[block] @ z[block.start :].T
    squares = (norms[block, None] + norms[None, block.start :]).sub_(products, alpha=2).clamp_(min=0)
    return products, squares


def _add_block(total: Any, values: Any, owners: NDArray[np.intp], block: slice) -> None:
    """Add a block's values and their mirror image to the sums of its units."""
    height = block.stop - block.start
    values[:, :height].fill_diagonal_(0)
    own, later = owners[block], owners[block.stop :]
    rows = np.unique(own)
    total[_grid(rows, rows)] += _segments(_segments(values[:, :height], own).T, own).T
    if len(later):
        columns = np.unique(later)
        cross = _segments(_segments(values[:, height:], later).T, own).T
        total[_grid(rows, columns)] += cross
        total[_grid(columns, rows)] += cross.T


def _grid(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[slice, slice]:
    """The block of consecutive units: sorted rows leave no unit out."""
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _segments(values: Any, owners: NDArray[np.intp]) -> Any:
    """Sums over runs of columns with one owner: (a, b) → (a, runs), float64."""
    import torch

    ends = np.append(np.flatnonzero(np.diff(owners)), len(owners) - 1)
    reached = values.cumsum(dim=1, dtype=torch.float64)[:, torch.from_numpy(ends).to(values.device)]
    return torch.diff(reached, dim=1, prepend=torch.zeros_like(reached[:, :1]))
