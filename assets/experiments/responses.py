"""What each imitation, at each strength, does to the source's traits: measured once a source, used for every target.

Belongs here: which changes are probed at which settings, and measuring them on a few pictures.
Does not: choosing among them (`explain.py`), fitting operators, losses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.experiments import forms, jpeg, normalise
from assets.experiments.explain import tilted
from assets.experiments.geometry import cut
from assets.experiments.match import Graded
from assets.experiments.operators import Window
from assets.experiments.search import Floats, Response
from assets.traits.layout import measure_layout
from assets.traits.measure import measure_pictures
from assets.traits.regional import measure_regions, measure_road
from assets.traits.registry import Trait
from resources.pictures import Picture, to_input_mask
from resources.progress import track

if TYPE_CHECKING:
    from torch import Tensor

Setting = tuple[float, ...]
Labels = NDArray[np.uint8]
KINDS = frozenset({"picture", "layout"})
"""Traits that imitations are measured by. What is measured on the file's own pixels or shape is not: imitations act at
the model's input."""
PROBED = 24
"""Pictures of the holdout's fit half that are probed: changes are paired, so that few tell them well."""
SHARES = tuple(np.linspace(0.05, 0.95, 13))
"""Quantiles of a class's share over the holdout that content is tilted to."""


@dataclass(frozen=True)
class Probe:
    """A change with one or two parameters: of pixels (`change`), or of what the camera sees (`windows`)."""

    experiment: str
    parameters: tuple[str, ...]
    axes: tuple[tuple[float, ...], ...]
    change: Callable[[Tensor, Setting], Tensor] | None = None
    windows: Callable[[int, int, Setting], Window] | None = None


def probes(wanted: Collection[str]) -> list[Probe]:
    """The probes of the experiments that are wanted, by id. The neutral setting is one of each probe's."""
    return [probe for probe in _catalogue() if probe.experiment in wanted]


def trait_names(traits: dict[str, Trait]) -> list[str]:
    """The traits that explanations rest on, in order."""
    return [name for name, trait in traits.items() if trait.kind in KINDS]


def measure_responses(
    wanted: Collection[str], pictures: Sequence[Picture], names: Sequence[str], class_names: Sequence[str], what: str
) -> list[Response]:
    """Mean change of each trait at each setting of each probe, on labelled pictures of the source; [] without any."""
    if not pictures:
        return []
    before = _measure([picture.reduced for picture in pictures], _masks(pictures), names, class_names)
    found = []
    asked = probes(wanted)
    for probe in track(asked, what, len(asked)):
        rows = [
            np.nan_to_num(_means(after - before))
            for after in _settings(probe, pictures, before, names, class_names)
        ]  # fmt: skip
        changes = np.array(rows).reshape(*(len(axis) for axis in probe.axes), len(names))
        axes = tuple(np.array(axis) for axis in probe.axes)
        found.append(Response(probe.experiment, axes, changes, probe.parameters))
    return found


def content_responses(wanted: Collection[str], traits: pl.DataFrame, names: Sequence[str]) -> list[Response]:
    """What other class shares would do to the traits of the holdout: samples weighted, no picture changed."""
    values = traits.select(names).to_numpy().astype(np.float64)
    found = []
    for experiment in sorted(wanted):
        share = f"share_{experiment.removeprefix('content_')}"
        if not experiment.startswith("content_") or share not in names:
            continue
        own = values[:, names.index(share)]
        usable = np.isfinite(own)
        if usable.sum() and np.ptp(own[usable]) > 0:
            levels = np.unique(np.quantile(own[usable], SHARES))
            found.append(tilted(experiment, values[usable], own[usable], levels.tolist()))
    return [response for response in found if len(response.axes[0]) > 1]


def _settings(
    probe: Probe, pictures: Sequence[Picture], before: Floats, names: Sequence[str], class_names: Sequence[str]
) -> Iterator[Floats]:
    """Traits (n, T) at each setting, in the order of the grid."""
    import torch

    masks = _masks(pictures)
    batch = torch.stack([picture.reduced for picture in pictures])
    for setting in product(*probe.axes):
        if probe.change is not None:
            changed = list(probe.change(batch, setting))
            yield _measure(changed, masks, names, class_names, unchanged=before)
        elif probe.windows is not None:
            shown, marks = _seen(probe.windows, pictures, setting)
            yield _measure(shown, marks, names, class_names)


def _seen(
    windows: Callable[[int, int, Setting], Window], pictures: Sequence[Picture], setting: Setting
) -> tuple[list[Tensor], list[Labels]]:
    """Pictures and masks of what one window shows, at the model's input."""
    shown, masks = [], []
    for picture in pictures:
        size = (picture.reduced.shape[1], picture.reduced.shape[2])
        height, width = picture.image.shape[:2]
        window = windows(height, width, setting)
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        shown.append(cut(picture.image, window, size, (0.0, 0.0, 0.0)))
        masks.append(to_input_mask(_mask(picture)[rows, columns], size))
    return shown, masks


def _measure(
    pictures: Sequence[Tensor], masks: Sequence[Labels], names: Sequence[str], class_names: Sequence[str],
    *, unchanged: Floats | None = None,
) -> Floats:  # fmt: skip
    """Traits (n, T) of pictures and masks; where masks are as before, `unchanged` gives what hangs on them alone."""
    import torch

    of_pictures = measure_pictures(torch.stack(list(pictures)))
    rows = np.full((len(pictures), len(names)), np.nan) if unchanged is None else unchanged.copy()
    for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        values = {name: float(column[i]) for name, column in of_pictures.items()}
        if unchanged is None:
            values |= measure_regions(picture, mask, class_names) | measure_layout(mask, class_names)
        else:
            values |= measure_road(picture, mask, class_names)
        for place, name in enumerate(names):
            if name in values:
                rows[i, place] = values[name]
    return rows


def _means(changes: Floats) -> Floats:
    known = np.isfinite(changes)
    total: Floats = np.where(known, changes, 0).sum(0) / np.maximum(known.sum(0), 1)
    return total


def _masks(pictures: Sequence[Picture]) -> list[Labels]:
    sizes = [(picture.reduced.shape[1], picture.reduced.shape[2]) for picture in pictures]
    return [to_input_mask(_mask(picture), size) for picture, size in zip(pictures, sizes, strict=True)]


def _mask(picture: Picture) -> Labels:
    if picture.mask is None:
        raise ValueError(f"{picture.sample_id}: probes need labels")
    return picture.mask


def _graded(experiment: str, parameter: str, operator: Graded, values: tuple[float, ...]) -> Probe:
    return Probe(experiment, (parameter,), (values,), lambda batch, at: operator.apply(batch, operator.at(at[0])))


def _formed(
    experiment: str, parameters: tuple[str, str], change: Callable[[Tensor, float, float], Tensor],
    strengths: tuple[float, ...], shapes: tuple[float, ...],
) -> Probe:  # fmt: skip
    return Probe(experiment, parameters, (strengths, shapes), lambda batch, setting: change(batch, *setting))


def _catalogue() -> list[Probe]:
    return [*_of_colour(), *_of_detail(), *_of_view()]


def _of_colour() -> list[Probe]:
    exposure, balance, offsets = normalise.Exposure(), normalise.WhiteBalance(), normalise.ChannelStatistics()
    shifts = (-0.3, -0.12, -0.04, 0.0, 0.04, 0.12, 0.3)
    gammas = (0.25, 0.45, 0.7, 0.88, 1.0, 1.15, 1.4, 2.0, 3.2)
    gains = (0.3, 0.6, 0.8, 0.93, 1.0, 1.08, 1.3, 2.0)
    return [
        Probe("exposure", ("gamma", "gain"), (gammas, (0.12, 0.25, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0)),
              lambda batch, setting: exposure.apply(batch, {"gamma": setting[0], "gain": setting[1]})),
        Probe("white_balance", ("red gain", "blue gain"), (gains, gains),
              lambda batch, setting: balance.apply(batch, {"gain": [setting[0], 1.0, setting[1]]})),
        Probe("channel_statistics", ("red offset", "blue offset"), (shifts, shifts),
              lambda batch, setting: offsets.apply(
                  batch, {"gain": [1.0, 1.0, 1.0], "offset": [setting[0], 0.0, setting[1]]})),
        _graded("contrast", "factor", normalise.Contrast(), (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.6, 2.2, 3.2)),
        _formed("saturation", ("factor", "like HSV"), forms.vivid,
                (0.0, 0.3, 0.6, 0.8, 1.0, 1.25, 1.6, 2.2, 3.2, 5.0, 8.0), (0.0, 1.0)),
        _graded("haze", "transmission", normalise.Haze(), (0.15, 0.3, 0.45, 0.6, 0.75, 0.87, 1.0, 1.2, 1.6)),
        _formed("vignette", ("log gain in the corners", "power of the radius"), forms.shaded,
                (-4.0, -2.0, -1.2, -0.7, -0.35, 0.0, 0.35, 0.8), (1.5, 3.0, 6.0)),
    ]  # fmt: skip


def _of_detail() -> list[Probe]:
    widths = (0.0, 0.5, 0.8, 1.2, 2.0, 3.5, 6.0)
    return [
        _formed("noise", ("grey deviation", "colour deviation"), forms.noisy,
                (0.0, 0.01, 0.025, 0.06, 0.12, 0.2), (0.0, 0.02, 0.05, 0.12, 0.25, 0.5)),
        _graded("compression", "JPEG quality", jpeg.Jpeg(), (3.0, 5.0, 8.0, 15.0, 25.0, 40.0, 65.0, 100.0)),
        _formed("sharpness", ("blur down (pixels)", "blur across (pixels)"), forms.blurred, widths, widths),
        _formed("resolution", ("share of rows and columns", "blocks"), forms.coarse,
                (0.1, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8, 1.0), (0.0, 1.0)),
    ]  # fmt: skip


def _of_view() -> list[Probe]:
    return [
        Probe("aspect_windows", ("aspect",),
              ((0.3, 0.45, 0.6, 0.75, 0.88, 1.0, 1.15, 1.35, 1.7, 2.3, 3.3),), windows=_narrowed),
        Probe("field_of_view", ("share of the sides", "place from the top"),
              ((0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0), (0.0, 0.5, 1.0)), windows=_zoomed),
    ]  # fmt: skip


def _narrowed(height: int, width: int, setting: Setting) -> Window:
    """The largest central window whose aspect is the setting times the picture's own."""
    aspect = setting[0]
    tall, wide = (height, round(width * aspect)) if aspect <= 1 else (round(height / aspect), width)
    tall, wide = max(1, tall), max(1, wide)
    top, left = (height - tall) // 2, (width - wide) // 2
    return Window(top, left, top + tall, left + wide)


def _zoomed(height: int, width: int, setting: Setting) -> Window:
    """A window of the picture's shape and that share of its sides; the second setting places it, 0 top to 1 bottom."""
    share, place = setting
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = round((height - tall) * place), (width - wide) // 2
    return Window(top, left, top + tall, left + wide)
