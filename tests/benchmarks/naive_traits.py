"""The picture traits, the histogram and the layout traits as one would write them: a picture at a time, a call a trait.

What `measure_pictures`, `channel_histogram` and `measure_layout` are timed and checked against. Not for use: numpy,
scipy and scikit-image in double precision, every function as its documentation shows it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.measure import label, regionprops

from assets.traits.layout import LEAST_AREA, is_countable, slug
from assets.traits.texture import BANDS

Floats = np.ndarray


def picture_traits(image: Floats) -> dict[str, float]:
    """All picture traits of one picture (h, w, 3) in 0..1."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return {**_colour(image, grey), **_texture(image, grey), **_spectrum(grey)}


def histogram(image: Floats) -> Floats:
    """Pixels per 8-bit value and channel, (3, 256)."""
    levels = np.rint(image * 255).clip(0, 255)
    return np.stack([np.histogram(levels[..., i], bins=256, range=(-0.5, 255.5))[0] for i in range(3)])


def layout_traits(mask: Floats, class_names: list[str]) -> dict[str, float]:
    """All layout traits of one mask (h, w)."""
    known = mask < len(class_names)
    values = {"labelled": known.mean()}
    for index, name in enumerate(class_names):
        key, member = slug(name), mask == index
        values[f"share_{key}"] = member.sum() / known.sum()
        if is_countable(name):
            regions = regionprops(label(member, connectivity=2))
            sizes = [math.sqrt(one.area / mask.size) for one in regions if one.area >= LEAST_AREA * mask.size]
            values[f"count_{key}"] = len(sizes)
            values[f"median_size_{key}"] = np.median(sizes) if sizes else math.nan
            values[f"largest_size_{key}"] = max(sizes) if sizes else math.nan
        if key == "sky":
            borders = [np.flatnonzero(column)[-1] + 1 for column in member.T if column.any()]
            values["sky_horizon"] = np.median(borders) / len(mask) if borders else math.nan
        if key == "road":
            rows = np.flatnonzero(member.sum(1) >= max(1, 0.01 * mask.shape[1]))
            values["road_horizon"] = rows[0] / len(mask) if len(rows) else math.nan
    values["layout_entropy"] = np.mean(_cell_entropies(mask, len(class_names)))
    return values


def _colour(image: Floats, grey: Floats) -> dict[str, float]:
    lab = rgb2lab(image)
    values = {}
    for i, channel in enumerate(("red", "green", "blue")):
        values[f"mean_{channel}"], values[f"std_{channel}"] = image[..., i].mean(), image[..., i].std()
    for i, channel in enumerate("lab"):
        values[f"lab_{channel}_mean"], values[f"lab_{channel}_std"] = lab[..., i].mean(), lab[..., i].std()
    return values | {
        "brightness": grey.mean(),
        "contrast": grey.std(),
        "gamma_estimate": np.log(grey.clip(1 / 255, 254 / 255)).mean() / math.log(0.5),
        "luma_p05": np.percentile(grey, 5, method="inverted_cdf"),
        "luma_p95": np.percentile(grey, 95, method="inverted_cdf"),
        "clipped_dark": (grey <= 5 / 255).mean(),
        "clipped_bright": (grey >= 250 / 255).mean(),
        "saturation": (image.max(2) - image.min(2)).mean(),
        "colour_cast": math.hypot(lab[..., 1].mean(), lab[..., 2].mean()),
    }


def _texture(image: Floats, grey: Floats) -> dict[str, float]:
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    responses = [ndimage.convolve(image[..., i], mask)[1:-1, 1:-1] for i in range(3)]
    down, right = np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]
    distance = np.hypot(*np.meshgrid(*(np.linspace(-1, 1, side) for side in grey.shape), indexing="ij")) / math.sqrt(2)
    corner, centre = grey[distance >= 0.85].mean(), grey[distance <= 0.3].mean()
    return {
        "sharpness": math.log10(max(1e-8, ndimage.laplace(grey)[1:-1, 1:-1].var())),
        "noise_sigma": np.mean([np.median(np.abs(one)) for one in responses]) / (6 * 0.67448975),
        "edge_density": (np.hypot(down, right) > 0.1).mean(),
        "gradient_ratio": math.log((np.abs(down).mean() + 1e-5) / (np.abs(right).mean() + 1e-5)),
        "vignette": math.log((corner + 1 / 255) / (centre + 1 / 255)),
        "dark_channel": ndimage.minimum_filter(image.min(2), 15, mode="constant", cval=np.inf).mean(),
    }


def _spectrum(grey: Floats) -> dict[str, float]:
    height, width = grey.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    centred = grey - (grey * window).sum() / window.sum()
    power = np.abs(np.fft.fft2(centred * window)) ** 2 / (window**2).sum()
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    edges = np.geomspace(1 / 32, 0.5, 13)
    places, levels = [], []
    for low, high in pairwise(edges):
        ring = (frequency > low) & (frequency <= high)
        places.append(np.log10(frequency[ring]).mean())
        levels.append(math.log10(max(1e-10, power[ring].mean())))
    values = {"spectral_slope": np.polyfit(places, levels, 1)[0]}
    for name, (low, high) in BANDS.items():
        values[name] = math.log10(max(1e-10, power[(frequency > low) & (frequency <= high)].mean()))
    return values


def _cell_entropies(mask: Floats, classes: int) -> list[float]:
    height, width = mask.shape
    rows, columns = (np.arange(side) * 8 // side for side in (height, width))
    found = []
    for i in range(8):
        for j in range(8):
            cell = mask[np.ix_(rows == i, columns == j)]
            shares = np.bincount(cell[cell < classes], minlength=classes) / max(1, (cell < classes).sum())
            if shares.any():
                found.append(-sum(share * math.log2(share) for share in shares if share > 0))
    return found
