"""The operators of the report half: none of them was looked at while the product was built.

Made with albumentations, OpenCV and scipy, never with the product's own code; no implementation is shared with the
tuning half (`plants_tune.py`, `plants_seen.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

from gapbench.plants import IGNORE, Mask, Picture, Plant, by_albumentations, label_plants, on_picture

Floats = NDArray[np.float64]


def _linear(x: Floats) -> Floats:
    """Light in 0..1 of sRGB values in 0..255."""
    y = np.clip(x / 255, 0, 1)
    return np.where(y <= 0.04045, y / 12.92, ((y + 0.055) / 1.055) ** 2.4)


def _srgb(light: Floats) -> Floats:
    """sRGB values in 0..255 of light; what is above white is white."""
    y = np.clip(light, 0, 1)
    return 255 * np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)


def _lab_tint(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A tinted windscreen: towards cyan by p units of chroma, at the same lightness."""
    lab = cv2.cvtColor((x / 255).astype(np.float32), cv2.COLOR_RGB2LAB)
    lab[..., 1:] += np.array([-0.8, -0.6], np.float32) * p
    return 255 * cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.float64)


def _mired(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A camera set for lamps, in daylight: Wien's law for a shift of p mired, at the same luminance of grey."""
    wavelengths = np.array([600.0, 540.0, 450.0])  # nm
    gains = np.exp(1.4388e7 * 1e-6 * p / wavelengths)
    return _srgb(_linear(x) * gains / (gains @ np.array([0.2126, 0.7152, 0.0722])))


def _overexposed(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A shutter open for p stops too long; highlights clip."""
    return _srgb(_linear(x) * 2**p)


def _s_curve(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A harsh tone curve: shadows and lights are pushed apart around middle grey."""
    low, high = special.expit(-p / 2), special.expit(p / 2)
    return 255 * (special.expit(p * (x / 255 - 0.5)) - low) / (high - low)  # type: ignore[no-any-return]


def _fog_in_canyon(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """Koschmieder's law in linear light; depth is that of a street: infinite at the vanishing point, near at its walls.

    Blue is scattered a little more than red.
    """
    height, width = x.shape[:2]
    down = np.abs(np.linspace(0, 1, height) - 0.45)[:, None]
    aside = np.abs(np.linspace(-1, 1, width))[None]
    depth = 1 / np.maximum(np.maximum(down / 0.55, 0.7 * aside), 0.08)
    seen = np.exp(-p * depth[..., None] * np.array([0.9, 1.0, 1.15]))
    return _srgb(_linear(x) * seen + _linear(np.array([214.0, 219.0, 224.0])) * (1 - seen))


def _pupil(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A lens whose barrel hides its pupil: the overlap of two disks, apart by the angle, a little off axis."""
    height, width = x.shape[:2]
    down, right = np.linspace(-1, 1, height)[:, None] - 0.04, np.linspace(-1, 1, width)[None] + 0.06
    apart = np.clip(p * np.hypot(down, right) / np.sqrt(2), 0, 1)
    overlap = 2 / np.pi * (np.arccos(apart) - apart * np.sqrt(1 - apart**2))
    return _srgb(_linear(x) * overlap[..., None])


def _raw_noise(x: Floats, p: float, rng: np.random.Generator) -> Floats:
    """Noise of the sensor's read-out, as the camera's interpolation of its Bayer pattern spreads it."""
    height, width = x.shape[:2]
    raw = np.empty((height, width))
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        raw[row::2, column::2] = x[row::2, column::2, channel]
    spread = p * 255 * (0.5 + np.sqrt(np.clip(raw / 255, 0, 1)) / 2)
    noise = rng.normal(0, 1, raw.shape) * spread
    levels = np.clip(np.round(32768 + 32 * noise), 0, 65535).astype(np.uint16)
    coloured = cv2.cvtColor(levels, cv2.COLOR_BayerRG2BGR)[..., ::-1]
    return x + (coloured.astype(np.float64) - 32768) / 32


def _forward_motion(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A car that drives on during the exposure: the mean of the picture at scales up to a factor 1 + p apart."""
    height, width = x.shape[:2]
    steps = np.linspace(-0.5, 0.5, 3 + 2 * int(np.ceil(p * width / 2)))
    total = np.zeros_like(x)
    for step in steps:
        scale = (1 + p) ** step
        total += _scaled(x, scale, scale, (width / 2, 0.45 * height))
    return total / len(steps)


def _scaled(x: Floats, wide: float, high: float, around: tuple[float, float]) -> Floats:
    """At another scale around a point; beyond the border its pixels are repeated."""
    across, down = around[0] - 0.5, around[1] - 0.5
    matrix = np.array([[wide, 0, across * (1 - wide)], [0, high, down * (1 - high)]])
    size = (x.shape[1], x.shape[0])
    return cv2.warpAffine(x, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


BLOCK = 16


def _video(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A key frame of a video at a low bit rate: blocks of a cosine transform in steps of p, colour at half size."""
    height, width = x.shape[:2]
    padded = np.pad(x, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="edge").astype(np.float32)
    luma, *chroma = cv2.split(cv2.cvtColor(padded / 255, cv2.COLOR_RGB2YCrCb))
    size = (luma.shape[1], luma.shape[0])
    half = [cv2.resize(plane, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA) for plane in chroma]
    planes = [_quantised(luma, BLOCK, p), *(cv2.resize(_quantised(plane, BLOCK // 2, p / 2), size) for plane in half)]
    decoded = cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YCrCb2RGB)
    return 255 * decoded[:height, :width].astype(np.float64)


def _quantised(plane: NDArray[np.float32], side: int, step: float) -> NDArray[np.float32]:
    """Coefficients of blocks cut to whole steps, the mean of a block in finer ones."""
    down, across = plane.shape[0] // side, plane.shape[1] // side
    blocks = plane.reshape(down, side, across, side).swapaxes(1, 2)
    found = fft.dctn(blocks, axes=(2, 3), norm="ortho")
    kept = np.sign(found) * np.floor(np.abs(found) / step + 1 / 3) * step
    kept[..., 0, 0] = np.round(found[..., 0, 0] / (step / 4)) * (step / 4)
    back = fft.idctn(kept, axes=(2, 3), norm="ortho").swapaxes(1, 2).reshape(plane.shape)
    return np.clip(back, 0, 1).astype(np.float32)  # type: ignore[no-any-return]


def _anamorphic(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """Pixels that are not square, shown as if they were: a file of the same shape, everything in it tall and thin."""
    height, width = mask.shape
    matrix = np.array([[1, 0, 0], [0, 1 / p, (0.5 * height - 0.5) * (1 - 1 / p)]])
    size, edge = (width, height), cv2.BORDER_REPLICATE
    stretched = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=edge)
    return stretched, cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=edge)


def _kerbside(image: Picture, mask: Mask, p: float, _: np.random.Generator) -> tuple[Picture, Mask]:
    """A longer lens that looks to the kerb: a window at the right border, at full size."""
    height, width = mask.shape
    kept = max(16, round(height * p)), max(16, round(width * p))
    top, left = round(0.6 * (height - kept[0])), width - kept[1]
    part = image[top : top + kept[0], left:], mask[top : top + kept[0], left:]
    size = (width, height)
    return (
        cv2.resize(part[0], size, interpolation=cv2.INTER_CUBIC),
        cv2.resize(part[1], size, interpolation=cv2.INTER_NEAREST_EXACT),
    )


def _wiper(x: Floats, p: float, rng: np.random.Generator) -> Floats:
    """A wiper before the lens, p of the picture's width, at another angle in each picture."""
    height, width = x.shape[:2]
    foot, angle = np.array([rng.uniform(0.2, 0.8) * width, 1.1 * height]), np.deg2rad(rng.uniform(-60, 60))
    along = np.array([np.sin(angle), -np.cos(angle)])
    rows, columns = np.mgrid[:height, :width]
    away = np.abs((columns - foot[0]) * along[1] - (rows - foot[1]) * along[0])
    cover = np.clip(p * width / 2 - away + 0.5, 0, 1) * min(1.0, p * width)
    rib = 18 + 14 * np.exp(-((away / (0.12 * p * width + 0.5)) ** 2))
    return x * (1 - cover[..., None]) + (rib * cover)[..., None]


SLICES = 12


def _packet_loss(x: Floats, p: float, rng: np.random.Generator) -> Floats:
    """A broken stream: slices are lost from some block on; the decoder smears the row above or shows green."""
    found, band = x.copy(), max(4, len(x) // SLICES)
    blocks = -(-x.shape[1] // band)
    for top in range(0, len(x), band):
        lost, start, green = rng.random(), int(rng.integers(0, blocks)) * band, rng.random() < 1 / 3
        if lost < p:
            left = 0 if lost < p - 0.4 else start
            above = x[max(0, top - 1), left:]
            found[top : top + band, left:] = np.array([40.0, 135.0, 45.0]) if green else above
    return found


def _misregistered(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A lens that images its colours at different sizes: fringes that grow towards the borders."""
    centre = (x.shape[1] / 2, x.shape[0] / 2)
    red, green, blue = (np.ascontiguousarray(x[..., channel]) for channel in range(3))
    return np.stack([_scaled(red, 1 + p, 1 + p, centre), green, _scaled(blue, 1 - p, 1 - p, centre)], axis=-1)


def _reflection(x: Floats, p: float, _: np.random.Generator) -> Floats:
    """A pane before the lens that mirrors the scene, upside down, with as much light as it takes away."""
    light = _linear(x)
    return _srgb((1 - p) * light + p * light[::-1])


def plants(class_names: Sequence[str]) -> list[Plant]:
    """Every plant of the half; those on labels where a world has their classes."""
    skipped = {"downscale": cv2.INTER_NEAREST, "upscale": cv2.INTER_LANCZOS4}
    return [
        Plant("colour_cast", "lab_tint", "photometric", on_picture(_lab_tint), 0.0, 80.0),
        Plant("white_balance", "mired", "photometric", on_picture(_mired), 0.0, 500.0),
        Plant("gamma", "overexposed", "photometric", on_picture(_overexposed), 0.0, 6.0),
        Plant("contrast", "s_curve", "photometric", on_picture(_s_curve), 0.05, 30.0),
        Plant("saturation", "jitter", "photometric",
              by_albumentations("ColorJitter", lambda p: {"brightness": (1, 1), "contrast": (1, 1), "hue": (0, 0),
                                                          "saturation": (p, p)}), 1.0, 0.0),
        Plant("haze", "canyon", "photometric", on_picture(_fog_in_canyon), 0.0, 0.9),
        Plant("vignette", "pupil", "photometric", on_picture(_pupil), 0.0, 3.0),
        Plant("noise", "raw", "photometric", on_picture(_raw_noise), 0.0, 0.35),
        Plant("blur", "forward", "photometric", on_picture(_forward_motion), 0.0, 1.0),
        Plant("compression", "video", "photometric", on_picture(_video), 0.01, 2.0),
        Plant("low_resolution", "line_skipping", "geometric",
              by_albumentations("Downscale", lambda p: {"scale_range": (p, p), "interpolation_pair": skipped}),
              0.99, 0.06),
        Plant("aspect", "anamorphic", "geometric", _anamorphic, 1.0, 0.2),
        Plant("field_of_view", "kerbside", "geometric", _kerbside, 1.0, 0.15),
        Plant("unknown", "wiper", "unknown", on_picture(_wiper), 0.0, 0.6),
        Plant("unknown", "packet_loss", "unknown", on_picture(_packet_loss), 0.0, 1.4),
        Plant("unknown", "misregistered", "unknown", on_picture(_misregistered), 0.0, 0.3),
        Plant("unknown", "reflection", "unknown", on_picture(_reflection), 0.0, 0.9),
        *label_plants(class_names, MERGED, "void_reach", widen_void),
    ]  # fmt: skip


MERGED = (("vegetation", "building"), ("vehicle", "road"), ("car", "road"))
"""Classes that the target's annotators do not tell apart: the first is labelled as the second."""


def widen_void(mask: Mask, reach: float) -> Mask:
    """Pixels nearer than that to another class's are left out."""
    inside = np.ones(mask.shape, np.uint8)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = mask[one] != mask[other]
        inside[one][differs] = 0
        inside[other][differs] = 0
    near = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < reach
    return np.where(near, IGNORE, mask).astype(np.uint8)
