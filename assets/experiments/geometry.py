"""Changes of geometry: windows of a picture that pass the model in the picture's place, predictions mapped back.

Belongs here: window operators, cutting windows out, stitching predictions. Does not: maps of colours, trials.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.experiments.operators import NotApplicable, Parameters, SetStatistics, Window
from resources.pictures import to_input

if TYPE_CHECKING:
    from torch import Tensor

OVERLAP = 0.25
"""Share of a window that its neighbour covers, too."""
SAME_ASPECT = 0.02
"""Relative difference of aspects below which there is nothing to undo."""


def _aspects(destination: SetStatistics, origin: SetStatistics) -> tuple[float, float]:
    wanted = float(np.median(destination.trait("aspect_ratio")))
    present = float(np.median(origin.trait("aspect_ratio")))
    if abs(wanted / present - 1) < SAME_ASPECT:
        raise NotApplicable(f"both sets have the aspect {present:.2f}")
    return wanted, present


class AspectWindows:
    """Windows of the destination's aspect that cover the picture, overlapping: nothing is stretched or left out."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The aspect (width / height) of the windows."""
        wanted, present = _aspects(destination, origin)
        return {"aspect": round(wanted, 4), "present": round(present, 4)}

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """As many windows side by side (or on top of each other) as cover the picture with some overlap."""
        if "share" in parameters:
            side = math.sqrt(parameters["share"])
            return _cover(height, width, (max(1, round(height * side)), max(1, round(width * side))))
        return _cover(height, width, _fitting(height, width, parameters["aspect"]))

    def sham(self, parameters: Parameters) -> Parameters:
        """Windows of the same area and of the picture's own shape: as much zoom and overlap, the stretch stays."""
        return {"share": _area_share(parameters)}


class Letterbox:
    """The whole picture inside one window of the destination's aspect; what lies outside is padded with the mean."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The aspect (width / height) of the window."""
        wanted, present = _aspects(destination, origin)
        return {"aspect": round(wanted, 4), "present": round(present, 4)}

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """One window that exceeds the picture on two sides."""
        aspect = parameters["aspect"]
        full_height, full_width = max(height, round(width / aspect)), max(width, round(height * aspect))
        top, left = (height - full_height) // 2, (width - full_width) // 2
        return [Window(top, left, top + full_height, left + full_width)]

    def sham(self, parameters: Parameters) -> Parameters:
        """As much padding on the other two sides: the stretch grows."""
        return {**parameters, "aspect": round(parameters["present"] ** 2 / parameters["aspect"], 4)}


FEWEST_OBJECTS = 8
SAME_SCALE = 0.05


class ObjectScale:
    """Windows in which countable objects appear at the destination's size; each a scaled copy of the picture's shape.

    The scale is the median over the size traits of origin's over destination's median size; above 1 the windows exceed
    the picture and are padded.
    """

    def __init__(self, size_traits: tuple[str, ...]) -> None:
        self.size_traits = size_traits

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The windows' side as a share of the picture's, within 0.4..1.6."""
        ratios = []
        for name in self.size_traits:
            wanted, present = destination.trait(name), origin.trait(name)
            if min(len(wanted), len(present)) >= FEWEST_OBJECTS:
                ratios.append(float(np.median(present) / np.median(wanted)))
        if not ratios:
            raise NotApplicable(f"fewer than {FEWEST_OBJECTS} samples with countable objects on a side")
        scale = float(np.clip(np.median(ratios), 0.4, 1.6))
        if abs(scale - 1) < SAME_SCALE:
            raise NotApplicable(f"objects appear at nearly the same size (ratio {np.median(ratios):.2f})")
        return {"scale": round(scale, 4)}

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """Covering windows below scale 1, one padded window above."""
        size = max(1, round(height * parameters["scale"])), max(1, round(width * parameters["scale"]))
        if parameters["scale"] <= 1:
            return _cover(height, width, size)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        return [Window(top, left, top + size[0], left + size[1])]

    def sham(self, parameters: Parameters) -> Parameters:
        """The inverse scale: as strong, the other way."""
        return {"scale": round(1 / parameters["scale"], 4)}


SAME_HORIZON = 0.02
"""Difference of horizons, in shares of the height, below which there is nothing to shift."""


class FieldOfView:
    """Windows of the picture's shape in which objects have the destination's size and the horizon its height.

    The scale is that of `ObjectScale` (1 where sizes do not tell); the first of the horizon traits that both sets have
    places a row of windows, others above and below cover the rest of the picture.
    """

    def __init__(self, size_traits: tuple[str, ...], horizon_traits: tuple[str, ...]) -> None:
        self.size_traits = size_traits
        self.horizon_traits = horizon_traits

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The windows' side as a share of the picture's; the horizons' heights, 0 top to 1 bottom."""
        try:
            scale = float(ObjectScale(self.size_traits).fit(destination, origin)["scale"])
        except NotApplicable as reason:
            scale, known = 1.0, f"{reason}; "
        else:
            known = ""
        wanted, present = self._horizons(destination, origin)
        if scale == 1 and abs(wanted - present) < SAME_HORIZON:
            raise NotApplicable(f"{known}horizons agree ({present:.3f} against {wanted:.3f} of the height)")
        return {"scale": round(scale, 4), "horizon": round(present, 4), "wanted": round(wanted, 4)}

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """Rows of windows, one of them with the horizon at the wanted height; a single padded one where that covers."""
        scale = parameters["scale"]
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        tops = [round(height * (parameters["horizon"] - scale * parameters["wanted"]))]
        step = max(1, int(tall * (1 - OVERLAP)))
        while tops[0] > 0:
            tops.insert(0, max(tops[0] - step, 0))
        while tops[-1] + tall < height:
            tops.append(min(tops[-1] + step, height - tall))
        lefts = _starts(width, wide) if wide < width else [(width - wide) // 2]
        return [Window(top, left, top + tall, left + wide) for top in tops for left in lefts]

    def sham(self, parameters: Parameters) -> Parameters:
        """The inverse scale and shift: as strong, the other way."""
        return {"scale": round(1 / parameters["scale"], 4), "horizon": parameters["wanted"],
                "wanted": parameters["horizon"]}  # fmt: skip

    def _horizons(self, destination: SetStatistics, origin: SetStatistics) -> tuple[float, float]:
        """Medians of the first horizon trait with enough samples in both sets; the middle twice where there is none."""
        for name in self.horizon_traits:
            wanted, present = destination.trait(name), origin.trait(name)
            if min(len(wanted), len(present)) >= FEWEST_OBJECTS:
                return float(np.median(wanted)), float(np.median(present))
        return 0.5, 0.5


class FieldOfViewCrop(FieldOfView):
    """One window with the destination's field of view and horizon; a wider one than the picture's is out of reach."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """As for windows. Raises NotApplicable where the crop would exceed the picture."""
        fitted = super().fit(destination, origin)
        if fitted["scale"] >= 1:
            raise NotApplicable(f"a crop of {fitted['scale']:.2f} times the picture's side would exceed it")
        return fitted

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """The window in the middle of the width, as near to the wanted horizon as the picture allows."""
        scale = min(parameters["scale"], 1.0)
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        top = round(height * (parameters["horizon"] - scale * parameters["wanted"]))
        top, left = min(max(top, 0), height - tall), (width - wide) // 2
        return [Window(top, left, top + tall, left + wide)]


class AspectCrop:
    """One central window of the destination's aspect: stretched to the input, it looks as the destination's do."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The aspect (width / height) of the window."""
        wanted, present = _aspects(destination, origin)
        return {"aspect": round(wanted, 4), "present": round(present, 4)}

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """The largest central window of that aspect."""
        if "share" in parameters:
            side = math.sqrt(parameters["share"])
            size = max(1, round(height * side)), max(1, round(width * side))
        else:
            size = _fitting(height, width, parameters["aspect"])
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        return [Window(top, left, top + size[0], left + size[1])]

    def sham(self, parameters: Parameters) -> Parameters:
        """A crop of the same share in the picture's own shape."""
        return {"share": _area_share(parameters)}


def cut(image: NDArray[np.uint8], window: Window, input_size: tuple[int, int], fill: tuple[float, ...]) -> Tensor:
    """One window of a picture (uint8 h, w, 3) at the model's input (3, H, W); `fill` (0..1) outside the picture."""
    height, width = image.shape[:2]
    inside = image[max(window.top, 0) : min(window.bottom, height), max(window.left, 0) : min(window.right, width)]
    size = (window.bottom - window.top, window.right - window.left)
    if inside.shape[:2] != size:
        padded = np.empty((*size, 3), np.uint8)
        padded[:] = np.round(np.array(fill) * 255).astype(np.uint8)
        top, left = max(-window.top, 0), max(-window.left, 0)
        padded[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        inside = padded
    return to_input(np.ascontiguousarray(inside), input_size)


def stitch(logits: Tensor, windows: list[Window], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Class scores of a picture from those of its windows.

    Args:
        logits: float (k, C, H, W), one a window.
        windows: where they lie.
        size: height and width of the picture.

    Returns:
        Scores (C, height, width): log of the windows' mean probabilities, weighted down towards inner window edges;
        and which pixels any window covers, bool (height, width).
    """
    import torch
    from torch.nn import functional

    height, width = size
    summed = logits.new_zeros((logits.shape[1], height, width))
    weight = logits.new_zeros((height, width))
    for scores, window in zip(logits, windows, strict=True):
        full = (window.bottom - window.top, window.right - window.left)
        here = functional.interpolate(scores[None], size=full, mode="bilinear", align_corners=False)[0]
        top, left = max(window.top, 0), max(window.left, 0)
        bottom, right = min(window.bottom, height), min(window.right, width)
        rows = slice(top - window.top, bottom - window.top)
        columns = slice(left - window.left, right - window.left)
        taper = _taper(full, logits)[rows, columns]
        summed[:, top:bottom, left:right] += here[:, rows, columns].softmax(0) * taper
        weight[top:bottom, left:right] += taper
    covered = weight > 0
    return torch.log((summed / weight.clamp(min=1e-6)).clamp(min=1e-12)), covered


def _taper(size: tuple[int, int], like: Tensor) -> Tensor:
    """Weights (h, w) that fall linearly to 5% towards the edges over the overlap."""
    import torch

    sides = []
    for length in size:
        distance = torch.minimum(torch.arange(length) + 0.5, length - torch.arange(length) - 0.5)
        sides.append((distance / max(1.0, OVERLAP * length)).clamp(0.05, 1))
    return (sides[0][:, None] * sides[1][None]).to(like.device)


def _fitting(height: int, width: int, aspect: float) -> tuple[int, int]:
    """The largest (height, width) of an aspect inside a picture."""
    if width / height > aspect:
        return height, max(1, round(height * aspect))
    return max(1, round(width / aspect)), width


def _cover(height: int, width: int, size: tuple[int, int]) -> list[Window]:
    tops, lefts = _starts(height, size[0]), _starts(width, size[1])
    return [Window(top, left, top + size[0], left + size[1]) for top in tops for left in lefts]


def _starts(length: int, window: int) -> list[int]:
    """Evenly spread starts of windows that cover a length with at least the overlap."""
    if window >= length:
        return [0]
    count = math.ceil((length - window) / (window * (1 - OVERLAP))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def _area_share(parameters: Parameters) -> float:
    """Share of a picture of the present aspect that the largest window of the wanted aspect has."""
    ratio = parameters["aspect"] / parameters["present"]
    return float(round(min(ratio, 1 / ratio), 4))
