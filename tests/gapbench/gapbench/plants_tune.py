"""The first operators of the tuning half: the product was built while looking at them.

Written with numpy, scipy, scikit-image and Pillow, never with the product's own code, so that the method is not
rewarded for inverting itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy import ndimage

from gapbench.plants import IGNORE, Change, Mask, Picture, Plant, label_plants, middle, on_picture, window


def _by_pillow(change: Callable[[Image.Image, float], Image.Image]) -> Change:
    def both(image: Picture, mask: Mask, parameter: float, _rng: np.random.Generator) -> tuple[Picture, Mask]:
        return np.array(change(Image.fromarray(image), parameter).convert("RGB")), mask

    return both


def _cast(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    return x + p * 255 * np.array([0.5, 0.15, -0.6])


def _cast_green(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """A tint by multiplication in linear light."""
    linear = (x / 255) ** 2.2 * np.array([1 - p, 1 + p / 2, 1 - p])
    return 255 * np.clip(linear, 0, 1) ** (1 / 2.2)


def _temperature(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    return x * np.array([1 + p, 1.0, 1 / (1 + p)])


def _cool(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    return 255 * (x / 255) ** np.array([1 + p, 1.0, 1 / (1 + p)])


def _gamma(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    from skimage.exposure import adjust_gamma

    return adjust_gamma(x / 255, p) * 255  # type: ignore[no-any-return]


def _sigmoid_dark(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Underexposure in linear light: fewer photons by a factor, then the camera's curve again."""
    return 255 * ((x / 255) ** 2.2 * (1 - p)) ** (1 / 2.2)


def _haze_uniform(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    return x * (1 - p) + 235 * p


def _haze_depth(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Koschmieder's law with a depth that grows towards the horizon (45% of the height)."""
    rows = (np.arange(len(x)) + 0.5) / len(x)
    depth = 1 / np.maximum(np.abs(rows - 0.45) * 6, 0.35)
    seen = np.exp(-p * depth)[:, None, None]
    return x * seen + 225 * (1 - seen)


def _vignette_cos4(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """The natural fall-off: the fourth power of the cosine of the field angle."""
    return x * (1 / (1 + (_radius(x) * p) ** 2) ** 2)[..., None]


def _vignette_edge(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """A hard shade that begins half way out."""
    return x * (1 - p * np.clip((_radius(x) - 0.5) / 0.5, 0, 1) ** 1.5)[..., None]


def _radius(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from the centre, 1 in the corners, (h, w)."""
    height, width = x.shape[:2]
    down, right = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    return np.hypot(down, right) / np.sqrt(2)  # type: ignore[no-any-return]


def _noise_gauss(x: NDArray[np.float64], p: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return x + rng.normal(0, p * 255, x.shape)


def _noise_shot(x: NDArray[np.float64], p: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Photon noise: the brighter, the noisier; `p` is 1 over the photons of white."""
    photons = 1 / p
    return rng.poisson(x / 255 * photons) / photons * 255


def _blur_gauss(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(x, (p, p, 0))  # type: ignore[no-any-return]


def _blur_disk(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    """Defocus: a disk of radius p with a soft border."""
    reach = int(np.ceil(p)) + 1
    grid = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    disk = np.clip(p + 0.5 - grid, 0, 1)
    return np.stack([ndimage.convolve(x[..., c], disk / disk.sum(), mode="nearest") for c in range(3)], axis=-1)


def _contrast(image: Image.Image, p: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(p)


def _contrast_to_grey(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    return 110 + (x - 110) * p


def _saturation(image: Image.Image, p: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(p)


def _saturation_hsv(x: NDArray[np.float64], p: float, _: np.random.Generator) -> NDArray[np.float64]:
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(np.clip(x / 255, 0, 1))
    hsv[..., 1] = np.clip(hsv[..., 1] * p, 0, 1)
    return hsv2rgb(hsv) * 255  # type: ignore[no-any-return]


def _jpeg(image: Image.Image, p: float) -> Image.Image:
    return _encoded(image, "JPEG", round(p))


def _webp(image: Image.Image, p: float) -> Image.Image:
    return _encoded(image, "WEBP", round(p))


def _encoded(image: Image.Image, kind: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return Image.open(buffer)


def _low_resolution(image: Image.Image, p: float) -> Image.Image:
    return _rescaled(image, p, Image.Resampling.BICUBIC)


def _low_resolution_box(image: Image.Image, p: float) -> Image.Image:
    return _rescaled(image, p, Image.Resampling.BOX)


def _rescaled(image: Image.Image, share: float, way: Image.Resampling) -> Image.Image:
    small = image.resize((max(8, round(image.width * share)), max(8, round(image.height * share))), way)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def _zoom(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """A longer lens: the middle of the picture at full size."""
    return window(image, mask, middle(image.shape[0], p), middle(image.shape[1], p), back=True)


def _narrow(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """A file of another shape: its sides are missing, so that the model's input stretches it in width."""
    return window(image, mask, slice(None), middle(image.shape[1], p), back=False)


def _dirt(x: NDArray[np.float64], p: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Spots on the lens, at other places in each picture."""
    height, width = x.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    cover = np.zeros((height, width))
    for _ in range(round(p * 40)):
        y, x0, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.03, 0.08) * width
        cover = np.maximum(cover, np.clip(1.5 - np.hypot(rows - y, columns - x0) / r, 0, 1))
    return x * (1 - 0.85 * cover[..., None]) + 70 * 0.85 * cover[..., None]


def _torn_rows(x: NDArray[np.float64], p: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A broken read-out: bands of rows are shifted sideways."""
    shifted = x.copy()
    band = max(4, len(x) // 24)
    for top in range(0, len(x), band):
        shifted[top : top + band] = np.roll(x[top : top + band], round(rng.normal(0, p * x.shape[1])), axis=1)
    return shifted


def _rain(x: NDArray[np.float64], p: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Bright streaks."""
    drops = (rng.random(x.shape[:2]) < p * 0.01).astype(np.float64)
    streaks = ndimage.convolve1d(drops, np.ones(25), axis=0, mode="constant")
    return x + (230 - x) * np.clip(0.55 * streaks, 0, 0.85)[..., None]


def plants(class_names: Sequence[str]) -> list[Plant]:
    """Every plant of the half; those on labels where a world has their classes."""
    return [
        Plant("colour_cast", "offset", "photometric", on_picture(_cast), 0.0, 0.8),
        Plant("colour_cast", "linear", "photometric", on_picture(_cast_green), 0.0, 0.98),
        Plant("white_balance", "gains", "photometric", on_picture(_temperature), 0.0, 4.0),
        Plant("white_balance", "curves", "photometric", on_picture(_cool), 0.0, 4.0),
        Plant("gamma", "skimage", "photometric", on_picture(_gamma), 1.0, 6.0),
        Plant("gamma", "underexposed", "photometric", on_picture(_sigmoid_dark), 0.0, 0.985),
        Plant("contrast", "pillow", "photometric", _by_pillow(_contrast), 1.0, 0.03),
        Plant("contrast", "grey", "photometric", on_picture(_contrast_to_grey), 1.0, 0.03),
        Plant("saturation", "pillow", "photometric", _by_pillow(_saturation), 1.0, 6.0),
        Plant("saturation", "hsv", "photometric", on_picture(_saturation_hsv), 1.0, 5.0),
        Plant("haze", "uniform", "photometric", on_picture(_haze_uniform), 0.0, 0.97),
        Plant("haze", "depth", "photometric", on_picture(_haze_depth), 0.0, 3.0),
        Plant("vignette", "cos4", "photometric", on_picture(_vignette_cos4), 0.0, 4.0),
        Plant("vignette", "edge", "photometric", on_picture(_vignette_edge), 0.0, 1.0),
        Plant("noise", "gauss", "photometric", on_picture(_noise_gauss), 0.0, 0.5),
        Plant("noise", "shot", "photometric", on_picture(_noise_shot), 0.0005, 0.6),
        Plant("blur", "gauss", "photometric", on_picture(_blur_gauss), 0.0, 8.0),
        Plant("blur", "disk", "photometric", on_picture(_blur_disk), 0.3, 12.0),
        Plant("compression", "jpeg", "photometric", _by_pillow(_jpeg), 95.0, 1.0),
        Plant("compression", "webp", "photometric", _by_pillow(_webp), 95.0, 0.0),
        Plant("low_resolution", "bicubic", "geometric", _by_pillow(_low_resolution), 1.0, 0.06),
        Plant("low_resolution", "box", "geometric", _by_pillow(_low_resolution_box), 1.0, 0.06),
        Plant("aspect", "narrow", "geometric", _narrow, 1.0, 0.2),
        Plant("field_of_view", "zoom", "geometric", _zoom, 1.0, 0.15),
        Plant("unknown", "dirt", "unknown", on_picture(_dirt), 0.0, 1.0),
        Plant("unknown", "torn_rows", "unknown", on_picture(_torn_rows), 0.0, 0.3),
        Plant("unknown", "rain", "unknown", on_picture(_rain), 0.0, 1.0),
        *label_plants(class_names, MERGED, "void", widen_void),
    ]


MERGED = (("sidewalk", "road"), ("pole", "building"))
"""Classes that the target's annotators do not tell apart: the first is labelled as the second."""


def widen_void(mask: Mask, reach: float) -> Mask:
    """Borders between classes are left out, that many pixels wide."""
    size = 2 * round(reach) + 1
    border = ndimage.maximum_filter(mask, size) != ndimage.minimum_filter(mask, size)
    return np.where(border, IGNORE, mask).astype(np.uint8)
