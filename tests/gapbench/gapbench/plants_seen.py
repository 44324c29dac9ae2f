"""Operators of an earlier report half: seen since, and so of the tuning half.

Made with albumentations, OpenCV and scipy, never with the product's own code; no implementation is shared with
`plants_tune.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from gapbench.plants import (
    IGNORE,
    Mask,
    Picture,
    Plant,
    by_albumentations,
    label_plants,
    middle,
    on_picture,
    window,
)

Floats = NDArray[np.float64]


def _von_kries(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """Warmer light: gains in linear light that keep a grey's luminance."""
    gains = np.array([1 + p, 1.0, 1 / (1 + p) ** 1.5])
    linear = (x / 255) ** 2.2 * gains / (gains @ np.array([0.2126, 0.7152, 0.0722]))
    return 255 * np.clip(linear, 0, 1) ** (1 / 2.2)


def _contrast(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """Towards each channel's own mean, picture by picture."""
    means = x.mean((0, 1))
    return means + (x - means) * p


def _fog(x: Floats, p: float, rng: np.random.Generator) -> Floats:
    """A veil of uneven thickness."""
    coarse = ndimage.zoom(rng.random((5, 6)), (x.shape[0] / 5, x.shape[1] / 6), order=3)
    veil = np.clip(p * (0.7 + 0.6 * coarse[: x.shape[0], : x.shape[1]]), 0, 1)[..., None]
    return x * (1 - veil) + 242 * veil


def _vignette(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A Gaussian fall-off; the parameter is its deviation as a share of the sides."""
    import cv2

    height, width = x.shape[:2]
    shade = cv2.getGaussianKernel(height, p * height) @ cv2.getGaussianKernel(width, p * width).T
    return x * (shade / shade.max())[..., None]


def _motion(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A camera that moves sideways during the exposure, by that many pixels."""
    reach = int(np.ceil(p / 2))
    line = np.clip(p / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    return ndimage.convolve1d(x, line / line.sum(), axis=1, mode="nearest")  # type: ignore[no-any-return]


def _pixelated(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """Fewer pixels, shown as blocks."""
    import cv2

    height, width = image.shape[:2]
    small = cv2.resize(image, (max(8, round(width * p)), max(8, round(height * p))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), mask


def _flat(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """A file of another shape: top and bottom are missing, so that the model's input stretches it upright."""
    return window(image, mask, middle(image.shape[0], p), slice(None), back=False)


def _sky_crop(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """A camera that looks down: the upper part is missing, the sides as well, so that nothing is stretched."""
    return window(image, mask, slice(round(image.shape[0] * (1 - p)), None), middle(image.shape[1], p), back=True)


def _roll(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """A camera mounted askew by p degrees."""
    turned = Image.fromarray(image).rotate(p, Image.Resampling.BILINEAR)
    labels = Image.fromarray(mask).rotate(p, Image.Resampling.NEAREST, fillcolor=IGNORE)
    return np.array(turned), np.array(labels)


def _posterised(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Fewer grey levels."""
    step = 255 / p
    return np.round(x / step) * step


def plants(class_names: Sequence[str]) -> list[Plant]:
    """Every plant of the half; those on labels where a world has their classes."""
    return [
        Plant("colour_cast", "shift", "photometric",
              by_albumentations("RGBShift", lambda p: {"r_shift_limit": (p, p), "g_shift_limit": (-0.5 * p, -0.5 * p),
                                                     "b_shift_limit": (0.8 * p, 0.8 * p)}), 0.0, 200.0),
        Plant("white_balance", "von_kries", "photometric", on_picture(_von_kries), 0.0, 6.0),
        Plant("gamma", "brighter", "photometric",
              by_albumentations("RandomGamma", lambda p: {"gamma_limit": (100 * p, 100 * p)}), 1.0, 0.1),
        Plant("contrast", "own_mean", "photometric", on_picture(_contrast), 1.0, 0.03),
        Plant("saturation", "shift", "photometric",
              by_albumentations("HueSaturationValue", lambda p: {"hue_shift_limit": (0, 0), "val_shift_limit": (0, 0),
                                                               "sat_shift_limit": (p, p)}), 0.0, 230.0),
        Plant("haze", "fog", "photometric", on_picture(_fog), 0.0, 0.95),
        Plant("vignette", "gaussian", "photometric", on_picture(_vignette), 3.0, 0.12),
        Plant("noise", "iso", "photometric",
              by_albumentations("ISONoise", lambda p: {"color_shift": (0.05 * p, 0.05 * p), "intensity": (p, p)}),
              0.001, 3.0),
        Plant("blur", "motion", "photometric", on_picture(_motion), 1.0, 40.0),
        Plant("compression", "opencv", "photometric",
              by_albumentations("ImageCompression", lambda p: {"quality_range": (round(p), round(p))}), 95.0, 1.0),
        Plant("low_resolution", "pixelated", "geometric", _pixelated, 1.0, 0.06),
        Plant("aspect", "flat", "geometric", _flat, 1.0, 0.2),
        Plant("field_of_view", "sky_crop", "geometric", _sky_crop, 1.0, 0.3),
        Plant("unknown", "roll", "unknown", _roll, 0.0, 60.0),
        Plant("unknown", "posterised", "unknown", on_picture(_posterised), 64.0, 1.2),
        Plant("unknown", "solarised", "unknown",
              by_albumentations("Solarize", lambda p: {"threshold_range": (p, p)}), 1.0, 0.3),
        Plant("unknown", "grid", "unknown",
              by_albumentations("GridDropout", lambda p: {"ratio": p, "holes_number_xy": (9, 7)}), 0.05, 0.9),
        *label_plants(class_names, MERGED, "void_band", widen_void),
    ]  # fmt: skip


MERGED = (("fence", "building"), ("vegetation", "fence"))
"""Classes that the target's annotators do not tell apart: the first is labelled as the second."""


def widen_void(mask: Mask, reach: float) -> Mask:
    """A band around every class is left out, that many pixels wide."""
    inside = np.zeros(mask.shape, dtype=bool)
    for index in np.unique(mask):
        inside |= ndimage.distance_transform_edt(mask == index) > reach
    return np.where(inside, mask, IGNORE).astype(np.uint8)
