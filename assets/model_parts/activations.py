"""How far the target's activations lie from the holdout's, part by part.

Belongs here: moments of each part's output and of its batch norms' inputs by picture, and their gap.
Does not: losses, what a part is worth (`ablation.py`), the words for it (`conclusion.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.model_parts.parts import Examined, Part, batch_norms, channel_moments, replaced
from assets.statistics.moments import moment_distance, pooled_moments, relative_shift
from assets.statistics.multiplicity import holm
from assets.statistics.resampling import Names, bootstrap_weights, split_by_units
from assets.statistics.two_sample import c2st
from resources.config import StatisticsConfig
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel
from resources.pictures import Batch
from resources.progress import track
from resources.sample_store import SampleTable

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Moments = tuple[Floats, Floats]
"""Means and variances of each picture and channel, (n, c) each."""

PICTURE = "picture"
"""The name under which the moments of the model's input go, before any part."""

ACTIVATION_SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "fingerprint": pl.String,
    "means": pl.List(pl.Float32),
    "variances": pl.List(pl.Float32),
}


@dataclass(frozen=True)
class Activations:
    """Moments of some pictures: of the input and of each part's output by its name, of batch norms' inputs by path."""

    ids: list[str]
    outputs: dict[str, Moments]
    norms: dict[str, Moments]

    def of(self, ids: Sequence[str]) -> Activations:
        """The same of some of the pictures, in the given order."""
        place = {name: i for i, name in enumerate(self.ids)}
        rows = [place[name] for name in ids]
        cut = ({name: (means[rows], variances[rows]) for name, (means, variances) in found.items()}
               for found in (self.outputs, self.norms))  # fmt: skip
        return Activations(list(ids), *cut)


@dataclass(frozen=True)
class PartGap:
    """The gap of one part's activations, holdout against target.

    `pad`: proxy A-distance of the outputs' spatial means; `pad_floor` the 95% point of the same between halves of the
    holdout. `shift`: relative shift of the outputs' moments (see `_views`), in the holdout's deviations, `shift_floor`
    likewise; `entering`: the largest shift of what feeds the part; `rise`: shift − entering with its interval.
    `norm_target`, `norm_holdout`: moment distance of the batch norms' inputs from their running statistics.
    """

    pad: float
    pad_p: float
    pad_q: float
    pad_floor: float
    shift: float
    shift_floor: float
    entering: float
    rise: float
    rise_ci95: tuple[float, float]
    rise_q: float
    norm_target: float
    norm_holdout: float


def update_activations(
    model: SegmentationModel, parts: Sequence[Part], wanted: pl.DataFrame,
    load: Callable[[list[str]], Iterator[Batch]], table: SampleTable, what: str,
) -> None:  # fmt: skip
    """Bring the table of one side to the wanted rows, one forward a picture."""

    def compute(ids: list[str]) -> Iterator[pl.DataFrame]:
        prints = dict(wanted.iter_rows())
        for batch in track(load(sorted(ids)), what, len(ids), size=lambda done: len(done.pictures)):
            means, variances = _moments(model, parts, batch.reduced)
            columns = {"means": list(means), "variances": list(variances)}
            identity = {"sample_id": batch.ids, "fingerprint": [prints[name] for name in batch.ids]}
            yield pl.DataFrame({**identity, **columns}, schema=ACTIVATION_SCHEMA)

    table.update(wanted, compute)
    if not table.exists:
        table.upsert(pl.DataFrame(schema=ACTIVATION_SCHEMA))


def wanted_activations(
    manifest: pl.DataFrame, model: SegmentationModel, parts: Sequence[Part], code: str
) -> pl.DataFrame:
    """Ids and fingerprints of the rows: content of the picture, model, parts, code."""
    decides = (model.fingerprint, [vars(part) for part in parts], code)
    pairs = [
        (name, fingerprint(content, decides))
        for name, content in manifest.select("sample_id", "image_hash").iter_rows()
    ]
    return pl.DataFrame(pairs, schema={"sample_id": pl.String, "fingerprint": pl.String}, orient="row")


def read_activations(table: SampleTable, model: SegmentationModel, parts: Sequence[Part]) -> Activations:
    """The table's rows, cut up into parts and batch norms."""
    rows = table.read()
    widths = _layout(model, parts)
    total = sum(widths.values())
    whole = [rows[name].list.to_array(total).to_numpy().astype(np.float64) for name in ("means", "variances")]
    bounds = np.cumsum([0, *widths.values()])
    cut = {key: (whole[0][:, a:b], whole[1][:, a:b]) for key, a, b in zip(widths, bounds, bounds[1:], strict=False)}
    outputs = {name: found for (kind, name), found in cut.items() if kind == "output"}
    norms = {name: found for (kind, name), found in cut.items() if kind == "norm"}
    return Activations(rows["sample_id"].to_list(), outputs, norms)


def activation_gaps(
    examined: Examined, holdout: Activations, holdout_units: Names, target: Activations, target_units: Names,
    settings: StatisticsConfig,
) -> dict[str, PartGap]:  # fmt: skip
    """The gap of every part by name; p-values of separation and of a rise are corrected over the parts (Holm)."""
    rng = np.random.default_rng(settings.seed)
    model, parts = examined.model, examined.parts
    draws = [bootstrap_weights(units, settings.bootstrap, rng) for units in (holdout_units, target_units)]
    count = settings.noise_floor_draws if len(set(holdout_units)) > 1 else 0
    halves = [split_by_units(holdout_units, rng) for _ in range(count)]
    views = {PICTURE: [(holdout.outputs[PICTURE], target.outputs[PICTURE])]}
    views |= {part.name: _views(examined, part, holdout, target) for part in parts}
    shifts = {name: float(_shift(pairs)[0]) for name, pairs in views.items()}
    drawn = {name: _shift(pairs, draws) for name, pairs in views.items()}
    rises = {part.name: _rise(part, shifts, drawn) for part in parts}
    pads = {
        part.name: c2st(holdout.outputs[part.name][0], holdout_units, target.outputs[part.name][0], target_units,
                        settings.permutations, np.random.default_rng(settings.seed))
        for part in parts
    }  # fmt: skip
    rise_q = dict(zip(rises, holm([rise[3] for rise in rises.values()]), strict=True))
    pad_q = dict(zip(pads, holm([found.p_value for found in pads.values()]), strict=True))
    return {
        part.name: PartGap(
            pad=pads[part.name].pad, pad_p=pads[part.name].p_value, pad_q=float(pad_q[part.name]),
            pad_floor=_pad_floor(holdout.outputs[part.name][0], holdout_units, halves, settings.seed),
            shift=shifts[part.name], shift_floor=_shift_floor([pair[0] for pair in views[part.name]], halves),
            entering=rises[part.name][0], rise=rises[part.name][1], rise_ci95=rises[part.name][2],
            rise_q=float(rise_q[part.name]), norm_target=norm_distance(model, part, target),
            norm_holdout=norm_distance(model, part, holdout),
        )
        for part in parts
    }  # fmt: skip


def _views(examined: Examined, part: Part, holdout: Activations, target: Activations) -> list[tuple[Moments, Moments]]:
    """What a part gives, on both sides: as it is, and as those read it that read nothing else.

    A reader's first batch norm is entered by a linear map of the part's output, in the directions that the network
    uses: a change that leaves every channel its moments shows there, and is the part's, not the reader's. A reader
    that pools the picture to one value has another scale and does not count.
    """
    found = [(holdout.outputs[part.name], target.outputs[part.name])]
    for reader in examined.parts:
        norms = batch_norms(examined.model.network, reader)  # type: ignore[arg-type]
        if reader.fed_by == (part.name,) and norms:
            first = min(norms, key=lambda path: examined.trace.began[path])
            if holdout.norms[first][1].any():  # varies within a picture
                found.append((holdout.norms[first], target.norms[first]))
    return found


def norm_distance(model: SegmentationModel, part: Part, found: Activations) -> float:
    """Moment distance of what enters the part's batch norms from their running statistics; NaN without batch norm.

    In units of the source's running deviation, averaged over channels, then over layers.
    """
    network: Any = model.network
    values = []
    for path, layer in batch_norms(network, part).items():
        running = layer.running_mean.double().cpu().numpy(), layer.running_var.double().cpu().numpy() + layer.eps
        mean, variance = pooled_moments(*found.norms[path])
        values.append(float(moment_distance(*running, mean, variance + layer.eps)))
    return float(np.mean(values)) if values else math.nan


def _moments(model: SegmentationModel, parts: Sequence[Part], batch: Tensor) -> tuple[Floats, Floats]:
    """Means and variances of all that `_layout` names, (n, values) each."""
    import torch

    network: Any = model.network
    seen: dict[tuple[str, str], tuple[Tensor, Tensor]] = {("output", PICTURE): channel_moments(model.normalised(batch))}

    def keep(name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        def look(made: Tensor, _given: Tensor | None) -> Tensor:
            seen["output", name] = channel_moments(made)
            return made

        return look

    def keep_given(path: str) -> Callable[[Any, Any], None]:
        return lambda _module, given: seen.__setitem__(("norm", path), channel_moments(given[0]))

    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(replaced(network, part.output, keep(part.name)))
            for path, layer in batch_norms(network, part).items():
                stack.callback(layer.register_forward_pre_hook(keep_given(path)).remove)
        model(batch)
    ordered = [seen[key] for key in _layout(model, parts)]
    means, variances = (torch.cat([found[i] for found in ordered], dim=1).cpu().numpy() for i in (0, 1))
    return means, variances


def _layout(model: SegmentationModel, parts: Sequence[Part]) -> dict[tuple[str, str], int]:
    """What a row holds, in order, with the channels of each."""
    network: Any = model.network
    widths = {("output", PICTURE): 3} | {("output", part.name): part.channels for part in parts}
    norms = {path: layer for part in parts for path, layer in batch_norms(network, part).items()}
    return widths | {("norm", path): int(layer.num_features) for path, layer in norms.items()}


def _shift(pairs: Sequence[tuple[Moments, Moments]], draws: Sequence[Floats] | None = None) -> Floats:
    """The largest relative shift of some views of a part, (1,), or of each draw of both sides, (b,)."""
    weights: Sequence[Floats | None] = (None, None) if draws is None else draws
    found = []
    for pair in pairs:
        here, there = (pooled_moments(*side, weight) for side, weight in zip(pair, weights, strict=True))
        found.append(np.atleast_1d(relative_shift(*here, *there)))
    return np.asarray(np.max(found, axis=0), dtype=np.float64)


def _rise(
    part: Part, shifts: dict[str, float], drawn: dict[str, Floats]
) -> tuple[float, float, tuple[float, float], float]:
    """What enters, shift − entering, its 95% interval and one-sided p-value, by the spread of draws of whole units.

    The interval is the normal one: draws of a distance lie above it, so their percentiles would be too high.
    """
    from scipy.stats import norm

    before = max(part.fed_by or (PICTURE,), key=lambda name: shifts[name])
    rise = shifts[part.name] - shifts[before]
    spread = float(np.std(drawn[part.name] - drawn[before], ddof=1))
    p_value = float(norm.sf(rise / spread)) if spread > 0 else 1.0
    return shifts[before], rise, (rise - 1.96 * spread, rise + 1.96 * spread), p_value


def _shift_floor(views: Sequence[Moments], halves: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> float:
    values = [_shift([((m[a], v[a]), (m[b], v[b])) for m, v in views])[0] for a, b in halves]
    return float(np.quantile(values, 0.95)) if values else math.nan


def _pad_floor(
    means: Floats, units: Names, halves: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], seed: int
) -> float:
    names = np.asarray(units, dtype=np.str_)
    values = [
        c2st(means[a], names[a], means[b], names[b], 0, np.random.default_rng(seed)).pad
        for a, b in halves
    ]  # fmt: skip
    return float(np.quantile(values, 0.95)) if values else math.nan
