"""What each part is worth: the loss that replacing it costs, on the holdout and on the target.

Belongs here: the interventions on one part, the pass that measures them on report halves, their paired differences.
Does not: training a part (`recovery.py`), saying what transfers (`conclusion.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.operators import NotApplicable
from assets.experiments.trial import Predictor, predict
from assets.inference.losses import pixel_sums
from assets.model_parts.activations import Activations
from assets.model_parts.parts import Examined, Part, Trace, batch_norms, constant, replaced, replayed, traced
from assets.statistics.moments import pooled_moments
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel
from resources.pictures import Batch, Picture
from resources.progress import track
from resources.sample_store import SampleTable

if TYPE_CHECKING:
    from torch import Tensor, nn

Side = Literal["holdout", "target"]
SIDES: tuple[Side, ...] = ("holdout", "target")
INTERVENTIONS = ("mean", "statistics", "bypass")
FEWEST_PICTURES = 8
"""Pictures of a fit half below which a mean or statistics of it are not made."""

LOSS_SCHEMA: dict[str, Any] = {
    "row_id": pl.String,
    "fingerprint": pl.String,
    "sample_id": pl.String,
    "side": pl.String,
    "part": pl.String,
    "intervention": pl.String,
    "loss": pl.Float64,
    "steps": pl.Int64,
}


@dataclass(frozen=True)
class Ablation:
    """One intervention on one part, on the samples of one side; `apply()` lasts as long as its context.

    `decides`: all that decides a loss besides sample, model and code. `steps()`: how long the part was trained, once
    it has been applied; None where it was not.
    """

    part: Part
    intervention: str
    side: Side
    decides: Any
    apply: Callable[[], AbstractContextManager[None]]
    steps: Callable[[], int | None] = lambda: None

    @property
    def prefix(self) -> str:
        """What its row ids start with."""
        return f"{self.side}:{self.intervention}:{self.part.output}:"


def plan_ablations(
    examined: Examined, side: Side, holdout: Activations, own: Activations
) -> tuple[list[Ablation], dict[tuple[str, str], str]]:
    """Every intervention on every part for one side, and why one is left out, by part and intervention.

    `holdout`, `own`: activations of the fit halves of the holdout and of the side. The mean comes from the holdout's
    for both sides, statistics from a side's own.
    """
    planned: list[Ablation] = []
    reasons: dict[tuple[str, str], str] = {}
    makers = {
        "mean": lambda part: _mean(examined.model, part, side, holdout),
        "statistics": lambda part: _statistics(examined.model, part, side, own),
        "bypass": lambda part: _bypass(examined.model, part, side, examined.trace),
    }
    for part in examined.parts:
        for intervention in INTERVENTIONS:
            try:
                planned.append(makers[intervention](part))
            except NotApplicable as reason:
                reasons[part.name, intervention] = str(reason)
    return planned, reasons


def _mean(model: SegmentationModel, part: Part, side: Side, holdout: Activations) -> Ablation:
    network: Any = model.network
    values = mean_response(part, holdout)
    return Ablation(part, "mean", side, fingerprint(values.tolist()), lambda: mean_replaced(network, part, values))


def _statistics(model: SegmentationModel, part: Part, side: Side, own: Activations) -> Ablation:
    network: Any = model.network
    mixed = mixed_statistics(network, part, own)
    decides = fingerprint({path: [mean.tolist(), variance.tolist()] for path, (mean, variance) in mixed.items()})
    return Ablation(part, "statistics", side, decides, lambda: with_statistics(network, mixed))


def _bypass(model: SegmentationModel, part: Part, side: Side, trace: Trace) -> Ablation:
    network: Any = model.network
    paths = bypassable(network, part, trace)
    return Ablation(part, "bypass", side, paths, lambda: bypassed(network, paths))


def mean_response(part: Part, fit: Activations) -> Tensor:
    """The part's mean output by channel (c,), over places and pictures. Raises NotApplicable for too few pictures."""
    import torch

    _enough(fit)
    return torch.tensor(fit.outputs[part.name][0].mean(axis=0), dtype=torch.float32)


def mixed_statistics(network: nn.Module, part: Part, fit: Activations) -> dict[str, tuple[Tensor, Tensor]]:
    """Running mean and variance of the part's batch norms, mixed with the set's by the share of the experiment.

    The set's moments are those that enter each layer while all others keep the source's statistics. Raises
    NotApplicable for a part without batch norm, and for too few pictures.
    """
    import torch

    layers = batch_norms(network, part)
    if not layers:
        raise NotApplicable("the part has no batch norm")
    _enough(fit)
    share = BatchNormReestimation().share
    mixed = {}
    for path, layer in layers.items():
        own = [torch.as_tensor(found).to(layer.running_mean) for found in pooled_moments(*fit.norms[path])]
        mixed[path] = (
            (1 - share) * layer.running_mean + share * own[0],
            (1 - share) * layer.running_var + share * own[1],
        )
    return mixed


def bypassable(network: nn.Module, part: Part, trace: Trace) -> list[str]:
    """The outermost blocks of the part that give what they take at the same shape. Raises NotApplicable for none.

    A block has modules within it; a lone convolution or norm is no block.
    """
    found: list[str] = []
    candidates = sorted({outer for layer in part.layers for outer in _around(layer)}, key=lambda path: path.count("."))
    for path in candidates:
        inner = [layer for layer in trace.calls if layer.startswith(f"{path}.")]
        whole = all(layer in part.layers for layer in inner if _holds_state(network, layer))
        given, made = trace.given.get(path), trace.made.get(path)
        fits = given is not None and made is not None and given.shape == made.shape and trace.calls[path] == 1
        if inner and whole and fits and path not in trace.several and not any(_within(path, one) for one in found):
            found.append(path)
    if not found:
        raise NotApplicable("no block of the part gives what it takes at the same shape")
    return found


def _around(layer: str) -> list[str]:
    names = layer.split(".")
    return [".".join(names[:i]) for i in range(1, len(names) + 1)]


def _within(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")


def _holds_state(network: nn.Module, path: str) -> bool:
    module = network.get_submodule(path)
    return bool(module._parameters or module._buffers)


def _enough(fit: Activations) -> None:
    if len(fit.ids) < FEWEST_PICTURES:
        raise NotApplicable(f"{len(fit.ids)} pictures in the fit half, at least {FEWEST_PICTURES} are needed")


# --- interventions as contexts ----------------------------------------------------------------------------------------


@contextmanager
def mean_replaced(network: nn.Module, part: Part, values: Tensor) -> Iterator[None]:
    """The part says the same of every place of every picture: `values` (c,)."""
    with replaced(network, part.output, constant(values)):
        yield


@contextmanager
def with_statistics(network: nn.Module, mixed: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Some batch norms, by path, run on other statistics."""
    layers: dict[str, Any] = {path: network.get_submodule(path) for path in mixed}
    kept = {path: (layer.running_mean, layer.running_var) for path, layer in layers.items()}
    try:
        for path, layer in layers.items():
            layer.running_mean, layer.running_var = mixed[path]
        yield
    finally:
        for path, layer in layers.items():
            layer.running_mean, layer.running_var = kept[path]


@contextmanager
def bypassed(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Some modules, by path, give what they are given."""
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(replaced(network, path, _given))
        yield


def _given(made: Tensor, given: Tensor | None) -> Tensor:
    return made if given is None else given


# --- the pass ---------------------------------------------------------------------------------------------------------


def wanted_losses(
    ablations: Sequence[Ablation], samples: Mapping[Side, pl.DataFrame], model_version: str, code: str
) -> pl.DataFrame:
    """Row ids and fingerprints: content of the sample, the intervention, model, code."""
    pairs = []
    for ablation in ablations:
        decides = (ablation.decides, ablation.part.layers, model_version, code)
        columns = samples[ablation.side].select("sample_id", "image_hash", "mask_hash", "labels_version")
        pairs += [(f"{ablation.prefix}{name}", fingerprint(content, decides)) for name, *content in columns.iter_rows()]
    return pl.DataFrame(pairs, schema={"row_id": pl.String, "fingerprint": pl.String}, orient="row")


def measure_losses(
    examined: Examined, ablations: Sequence[Ablation], wanted: pl.DataFrame,
    load: Callable[[Side, list[str]], Iterator[Batch]], table: SampleTable, what: str,
) -> int:  # fmt: skip
    """Bring the table to the wanted rows; each sample is decoded once, a batch's rows are committed together.

    Returns the number of forwards (pictures). A killed pass resumes at its last batch.
    """
    change, prints = table.diff(wanted), dict(wanted.iter_rows())
    stale = set(change.stale)
    for side in SIDES:
        own = [ablation for ablation in ablations if ablation.side == side]
        due = {one.prefix: {row.removeprefix(one.prefix) for row in stale if row.startswith(one.prefix)} for one in own}
        ids = sorted(set[str]().union(*due.values()))
        if not ids:
            continue
        for batch in track(load(side, ids), f"{what} ({side})", len(ids), size=lambda done: len(done.pictures)):
            rows = list(_batch_losses(examined, own, batch.pictures, due, prints))
            table.upsert(pl.DataFrame(rows, schema=LOSS_SCHEMA), new=change.new)
    table.remove(change.removed)
    if not table.exists:
        table.upsert(pl.DataFrame(schema=LOSS_SCHEMA))
    table.finish()
    return len(stale)


def _batch_losses(
    examined: Examined, ablations: Sequence[Ablation], pictures: list[Picture], due: dict[str, set[str]],
    prints: dict[str, str],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of one batch; ablations that are due for the same pictures replay what comes before their part."""
    import torch

    groups: dict[tuple[str, ...], list[Ablation]] = {}
    for one in ablations:
        ids = tuple(picture.sample_id for picture in pictures if picture.sample_id in due[one.prefix])
        groups.setdefault(ids, []).append(one)
    for ids, group in groups.items():
        own = [picture for picture in pictures if picture.sample_id in ids]
        if own:
            outputs = traced(examined.model, torch.stack([picture.reduced for picture in own])).whole
            for one in group:
                yield from _losses(examined, one, own, outputs, prints)


def _losses(
    examined: Examined, ablation: Ablation, pictures: list[Picture], outputs: dict[str, Any], prints: dict[str, str]
) -> list[dict[str, Any]]:
    network: Any = examined.model.network
    kept = {path: outputs[path] for path in examined.settled[ablation.part.name]}
    with ablation.apply(), replayed(network, kept):
        found = [(picture.sample_id, pixel_sums(scores, mask).loss)
                 for picture, scores, mask, _ in predict(Predictor(examined.model), pictures)]  # fmt: skip
    return [
        {"row_id": f"{ablation.prefix}{name}", "fingerprint": prints[f"{ablation.prefix}{name}"], "sample_id": name,
         "side": ablation.side, "part": ablation.part.name, "intervention": ablation.intervention, "loss": loss,
         "steps": ablation.steps()}
        for name, loss in found
    ]  # fmt: skip
