"""Traces of JPEG compression in a picture's original pixels.

Belongs here: traits of the 8×8 grid that JPEG leaves, read from the pixels, not from the file's header: data sets are
often stored as PNG after they were compressed. Does not: traits of the picture as the model sees it (colour.py,
texture.py); resizing destroys the grid.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.traits.colour import LUMA_WEIGHTS

BLOCK = 8
UNTOUCHED = 100.0
"""`jpeg_quality` where no trace of JPEG is found."""

MOST_PIXELS = 1 << 18
"""Pixels that are looked at: of larger pictures, evenly spaced rows of blocks."""

MOST_BLOCKS = 1024
LEAST_BLOCKS = 32
"""How many blocks, evenly spaced, are looked at for quality; and how many different ones an estimate needs."""

# Table K.1 of the JPEG standard (ITU-T T.81), row by row, which IJG's libjpeg scales by quality.
_LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_LARGEST_STEP = 255

# Coefficients are counted in bins of a quarter up to the largest step; the few that are larger tell little.
_BINS_PER_UNIT = 4
_BINS = (_LARGEST_STEP + 1) * _BINS_PER_UNIT

# Rounding to 8 bits, of luma in the decoder and of red, green and blue after it, gives a deviation of about 0.35 to
# each coefficient; a hundredth of the coefficients may lie anywhere.
_ROUNDING = 0.4
_ANYWHERE = 0.01

_LEAST_EVIDENCE = 20.0
_LEAST_STEPS = 6
_SMALLEST_STEP = 0.05

Floats = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)


def measure_compression(image: NDArray[np.uint8]) -> dict[str, float]:
    """Compression traits of one picture, uint8 (h, w, 3), of its original size.

    Both look at the grid of 8×8 blocks that starts in the upper left corner: a crop by other than multiples of 8 hides
    it, as resizing does. Of pictures of more than 262,144 pixels, evenly spaced rows of blocks are read.

    - `blockiness`: ln of the mean absolute step of luma across the borders of blocks over that within blocks, both
      directions together (after Wang, Bovik, Evans 2000), 0.05 grey levels added to each; about 0 without a grid,
      higher where blocks show. NaN below 9×9 pixels.
    - `jpeg_quality`: the quality of IJG's libjpeg, 1..100, under whose quantisation the luma's DCT coefficients are
      most likely (maximum likelihood over the lattices of Fan and de Queiroz 2003). Under other quantisation tables,
      the quality of equally coarse steps. Of several compressions the one that shows most counts, mostly the coarsest.
      100 where no quantisation is clearly more likely than none: never compressed, or changed since (resized, blurred,
      noise of 2 grey levels). NaN with fewer than 32 different blocks to tell from; clipped ones do not count.
    """
    bands = _bands(image)
    if not bands.size:
        return {"blockiness": math.nan, "jpeg_quality": math.nan}
    grey = bands.astype(np.float32) @ np.array(LUMA_WEIGHTS, np.float32)
    blocks = _telling(_blocks(grey[:, :BLOCK, :-1]), _blocks(_clipped(bands[:, :BLOCK, :-1])))
    return {
        "blockiness": _blockiness(grey),
        "jpeg_quality": _quality(blocks) if len(blocks) >= LEAST_BLOCKS else math.nan,
    }


def ijg_luma_steps(quality: int) -> NDArray[np.int64]:
    """Quantisation steps (8, 8) of luma at a quality (1..100) of IJG's libjpeg."""
    return ijg_steps(_LUMA_STEPS, quality)


def ijg_steps(table: ArrayLike, quality: int) -> NDArray[np.int64]:
    """A table of quantisation steps at quality 50, as IJG's libjpeg scales it to a quality (1..100)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality  # noqa: PLR2004
    steps: NDArray[np.int64] = ((np.array(table) * scale + 50) // 100).clip(1, _LARGEST_STEP)
    return steps


def _bands(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of blocks and, for the steps across their borders, one pixel more below and right: (n, 9, 8·m + 1, 3)."""
    height, width = ((side - 1) // BLOCK for side in image.shape[:2])
    if min(height, width) < 1:
        return np.empty((0, BLOCK + 1, 1, 3), np.uint8)
    kept = min(height, max(1, MOST_PIXELS // (BLOCK * BLOCK * width)))
    first = (np.arange(kept) * height // kept) * BLOCK
    return image[first[:, None] + np.arange(BLOCK + 1), : width * BLOCK + 1]


def _blockiness(grey: Floats) -> float:
    right = np.abs(np.diff(grey[:, :BLOCK], axis=2)).reshape(-1, BLOCK).mean(axis=0)
    down = np.abs(np.diff(grey[..., :-1], axis=1)).mean(axis=(0, 2))
    steps = (right + down) / 2
    border, inside = float(steps[-1]), float(steps[:-1].mean())
    return math.log((border + _SMALLEST_STEP) / (inside + _SMALLEST_STEP))


def _clipped(bands: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (n, h, w) with a channel at its limit: what was clipped is on no lattice."""
    red, green, blue = np.moveaxis((bands == 0) | (bands == np.iinfo(np.uint8).max), -1, 0)
    clipped: NDArray[np.bool_] = red | green | blue
    return clipped


def _blocks(bands: NDArray[Number]) -> NDArray[Number]:
    """Bands (n, 8, 8·m) as blocks (at most `MOST_BLOCKS`, 64)."""
    by_block = bands.reshape(len(bands), BLOCK, -1, BLOCK).swapaxes(1, 2)
    every = math.ceil(by_block.shape[0] * by_block.shape[1] / MOST_BLOCKS)
    return by_block.reshape(-1, BLOCK * BLOCK)[::every]


def _telling(blocks: Floats, clipped: NDArray[np.bool_]) -> Floats:
    """Blocks without clipped pixels, of those that differ by a constant alone one.

    A drawn picture repeats few blocks, and a lattice that fits these would look like certainty.
    """
    kept = blocks[~clipped.any(axis=1)]
    shape = np.rint(kept - kept[:, :1]).astype(np.float64)
    _, first = np.unique(shape @ _hash_weights(), return_index=True)
    return kept[first]


@cache
def _hash_weights() -> NDArray[np.float64]:
    """Integers that make the sum over a block exact in float64, and equal for equal blocks alone (but for chance)."""
    return np.random.default_rng(0).integers(1, 1 << 38, BLOCK * BLOCK).astype(np.float64)


def _quality(blocks: Floats) -> float:
    evidence = _evidence(blocks)
    tables = _ijg_tables()
    by_quality = evidence[np.arange(evidence.shape[0]), tables - 1].sum(axis=1)
    best = int(np.argmax(by_quality))
    best_steps, most = evidence.argmax(axis=1) + 1, evidence.max(axis=1)
    known = most > _LEAST_EVIDENCE
    if by_quality[best] > max(_LEAST_EVIDENCE, most[known].sum() / 2):
        return float(best + 1)
    if known.sum() < _LEAST_STEPS:
        return UNTOUCHED
    return _equal_quality(best_steps[known], most[known], known)


def _equal_quality(steps: NDArray[np.int64], weights: Floats, known: NDArray[np.bool_]) -> float:
    """The quality whose scale is the weighted median of the steps' ratios to the standard's; for other tables."""
    ratios = steps / np.array(_LUMA_STEPS).ravel()[1:][known]
    order = np.argsort(ratios)
    cumulated = np.cumsum(weights[order])
    ratio = float(ratios[order][np.searchsorted(cumulated, cumulated[-1] / 2)])
    return float(np.clip(round(100 - 50 * ratio if ratio < 1 else 50 / ratio), 1, UNTOUCHED))


def _evidence(blocks: Floats) -> Floats:
    """Log-likelihood of each quantisation step 1..255 over none, per coefficient: (63, 255); the mean is left out."""
    coefficients = np.abs(blocks @ _cosines().T)
    bins = np.rint(coefficients * _BINS_PER_UNIT).astype(np.int64)
    inside = bins < _BINS
    rows = np.arange(bins.shape[1]) * _BINS
    counts = np.bincount((bins + rows)[inside], minlength=bins.shape[1] * _BINS).reshape(-1, _BINS)
    return np.asarray(counts.astype(np.float32) @ _scores())


@cache
def _cosines() -> Floats:
    """The orthonormal DCT-II of a flat block, without the mean: (63, 64)."""
    index = np.arange(BLOCK)
    matrix = math.sqrt(2 / BLOCK) * np.cos(math.pi * (2 * index + 1) * index[:, None] / (2 * BLOCK))
    matrix[0] /= math.sqrt(2)
    return np.kron(matrix, matrix)[1:].astype(np.float32)


@cache
def _ijg_tables() -> NDArray[np.int64]:
    """Steps of the qualities 1..100, flat and without the mean's: (100, 63)."""
    return np.stack([ijg_luma_steps(quality).ravel()[1:] for quality in range(1, 101)])


@cache
def _scores() -> Floats:
    """Log-likelihood of a step over none, per bin of coefficients and step: (bins, 255).

    On the lattice q·n with rounding e, a smooth law of coefficients f becomes f(c)·q·Σₙ N(c − q·n). That many
    coefficients are near 0 is so without quantisation, too, and counts for no step; that they are off the lattice
    counts against it wherever they are.
    """
    values = np.arange(_BINS)[:, None] / _BINS_PER_UNIT
    steps = np.arange(1, _LARGEST_STEP + 1)
    nearest = np.rint(values / steps)
    density = np.zeros(nearest.shape)
    for neighbour in (-1, 0, 1):
        density += np.exp(-0.5 * np.square((values - (nearest + neighbour) * steps) / _ROUNDING))
    density *= steps / (_ROUNDING * math.sqrt(2 * math.pi))
    scores = np.log((1 - _ANYWHERE) * density + _ANYWHERE)
    return np.where(nearest == 0, np.minimum(scores, 0), scores).astype(np.float32)
