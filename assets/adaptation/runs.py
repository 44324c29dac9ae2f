"""A method's runs on one target: what is left to do, its budget shared out, weights and records kept.

Belongs here: variants × seeds, their folders, records and budget. Does not: what a step does, measuring (`trial.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.adaptation.alignment import AdvEnt, Adversarial, Coral
from assets.adaptation.finetuning import FineTuning, Oracle
from assets.adaptation.networks import trainable_copy
from assets.adaptation.registry import Method, Variant
from assets.adaptation.retraining import Restyled, SelfTraining
from assets.adaptation.statistics import (
    GUARDED,
    Tent,
    corrected_prior,
    one_pass,
    pixels_of_picture,
    reestimated,
    sampled_pixels,
)
from assets.adaptation.streams import Material, labelled_share
from assets.adaptation.training import Objective, Plan, Run, train
from assets.experiments.operators import NotApplicable
from resources.config import AdaptationConfig
from resources.fingerprint import file_digest, fingerprint
from resources.model import write_weights
from resources.progress import track

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, RECORD, STATE = "weights.safetensors", "run.json", "training.state"
NEARLY = 0.99
"""A run that its budget cut is not taken up again for less than this change of the budget."""


@dataclass(frozen=True)
class Record:
    """A finished run. `allowed`: seconds it might take; `digest`: of its weights; `pictures`: what it was fitted on."""

    variant: str
    seed: int
    version: str
    digest: str
    steps: int
    planned: int
    seconds: float
    allowed: float
    loss: float | None
    cut: bool
    note: str
    pictures: dict[str, int]


@dataclass(frozen=True)
class Skipped:
    """A variant that can't be run, and why."""

    variant: str
    reason: str


@dataclass(frozen=True)
class MethodRuns:
    """One method on one target. `decides`: a hash of data and code that decide its weights."""

    method: Method
    settings: AdaptationConfig
    material: Material
    folder: Path
    decides: str
    clock: Callable[[], float] = time.monotonic

    @property
    def seeds(self) -> list[int]:
        """One where nothing is random."""
        return list(range(self.settings.seeds if self.method.random else 1))

    def place(self, variant: Variant, seed: int) -> Path:
        """Folder of one run."""
        return self.folder / variant.id / f"seed-{seed}"

    def run(self, what: str) -> tuple[list[Record], list[Skipped]]:
        """Do what is missing, each run within its share of what is left of the budget."""
        pairs = [(variant, seed) for variant in self.method.variants for seed in self.seeds]
        budget = self.settings.seconds(self.method.id)
        even, left = budget / len(pairs), budget
        records: list[Record] = []
        skipped: dict[str, Skipped] = {}
        for place, (variant, seed) in enumerate(pairs):
            share = max(even, left / (len(pairs) - place))
            label = " ".join(
                part for part in (what, variant.title, f"seed {seed}" if self.method.random else "") if part
            )
            try:
                record = self._finished(variant, seed, share) or self._do(variant, seed, share, label)
            except NotApplicable as reason:
                skipped[variant.id] = Skipped(variant.id, str(reason))
                continue
            left -= record.seconds
            records.append(record)
        return records, list(skipped.values())

    def version(self, variant: Variant, seed: int) -> str:
        """Names all that decides a run's weights, but for its budget."""
        settings = self.settings.steps, self.settings.batch_size, self.settings.learning_rate
        return fingerprint(self.decides, settings, asdict(variant), self.method.schedule, seed)

    def _finished(self, variant: Variant, seed: int, allowed: float) -> Record | None:
        place = self.place(variant, seed)
        if not (place / RECORD).exists():
            return None
        record = Record(**json.loads((place / RECORD).read_text()))
        longer = record.cut and NEARLY * allowed > record.allowed
        if record.version != self.version(variant, seed) or longer or not (place / WEIGHTS).exists():
            return None
        return record

    def _do(self, variant: Variant, seed: int, seconds: float, what: str) -> Record:
        place = self.place(variant, seed)
        network = trainable_copy(self.material.model)
        adapt = DIRECT.get(self.method.id)
        if adapt is not None:
            run = adapt(network, self.material, seconds, self.clock, what)
        else:
            run = self._train(network, variant, seed, seconds, what)
        place.mkdir(parents=True, exist_ok=True)
        write_weights(network, place / WEIGHTS)
        digest = file_digest(place / WEIGHTS)
        record = Record(
            variant.id, seed, self.version(variant, seed), digest, run.steps, run.planned, run.seconds, seconds,
            None if run.loss != run.loss else run.loss, run.cut, run.note,
            self._pictures(variant, seed),
        )  # fmt: skip
        _write(place / RECORD, json.dumps(asdict(record), indent=1))
        (place / STATE).unlink(missing_ok=True)
        return record

    def _train(self, network: nn.Module, variant: Variant, seed: int, seconds: float, what: str) -> Run:
        objective = build_objective(self.method, variant, self.material, network, seed)
        steps = max(1, round(self.settings.steps * self.method.schedule))
        steps = one_pass(self.material) if self.method.id == "tent" else steps
        plan = Plan(steps, seconds, self.settings.learning_rate, seed, self.version(variant, seed))
        state = self.place(variant, seed) / STATE
        state.parent.mkdir(parents=True, exist_ok=True)
        return train(network, objective, plan, state, what=what, clock=self.clock)

    def _pictures(self, variant: Variant, seed: int) -> dict[str, int]:
        material, method = self.material, self.method
        found = {}
        if method.target_labels:
            chosen = labelled_share(material.labelled_fit, variant.label_share, seed)
            found["target fit half, with labels"] = len(chosen)
        else:
            found["target fit half, without labels"] = len(material.fit)
        if method.source_labels and method.id != "tent":
            found["source reference, with labels"] = len(material.reference)
        if method.id == "tent":
            found["source holdout fit half, with labels (guard)"] = min(GUARDED, len(material.guarded))
        return found


def build_objective(method: Method, variant: Variant, material: Material, network: nn.Module, seed: int) -> Objective:
    """What a trained method minimises. Raises NotApplicable."""
    builders: dict[str, Callable[[], Objective]] = {
        "tent": lambda: Tent(material, network, seed),
        "coral": lambda: Coral(material, seed),
        "fda": lambda: Restyled(material, seed),
        "self_training": lambda: SelfTraining(material, seed),
        "adversarial": lambda: Adversarial(material, network, seed),
        "advent": lambda: AdvEnt(material, seed),
        "fine_tuning": lambda: FineTuning(material, network, variant, seed),
        "oracle": lambda: Oracle(material, seed),
    }
    return builders[method.id]()


def _batch_norm(network: nn.Module, material: Material, seconds: float, clock: Callable[[], float], what: str) -> Run:
    watch = _Watch(seconds, clock)
    batches = watch.within(material.target(0).once(), what, one_pass(material))
    seen = reestimated(network.eval(), (material.model.normalised(batch.reduced) for batch in batches))
    return watch.run(one_pass(material), f"statistics of {seen} pictures")


def _class_prior(network: nn.Module, material: Material, seconds: float, clock: Callable[[], float], what: str) -> Run:
    watch = _Watch(seconds, clock)
    wanted = pixels_of_picture(len(material.fit))
    if not material.reference_pixels.sum():
        raise NotApplicable("the source's reference has no labelled pixel to take class shares from")
    pixels = [  # of one picture each
        sampled_pixels(logits, wanted)
        for batch in watch.within(material.target(0).once(), what, one_pass(material))
        for logits in material.model(batch.reduced).logits
    ]
    corrected_prior(network.eval(), material.model, material.reference_pixels, pixels, len(pixels))
    return watch.run(one_pass(material), "")


Direct = Callable[["nn.Module", Material, float, Callable[[], float], str], Run]
DIRECT: dict[str, Direct] = {"batch_norm": _batch_norm, "class_prior": _class_prior}
"""Methods without steps: one pass over the fit half."""


class _Watch:
    """One pass within a budget: batches stop when the next would end beyond it."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds, self.clock, self.started = seconds, clock, clock()
        self.done, self.cut = 0, False

    def within(self, batches: Iterable[Any], what: str, total: int) -> Iterator[Any]:
        lasting, begun = 0.0, self.clock()
        for batch in track(batches, what, total):
            if self.done and self.clock() - self.started + lasting > self.seconds:
                self.cut = True
                return
            yield batch
            self.done += 1
            lasting, begun = self.clock() - begun, self.clock()

    def run(self, planned: int, note: str) -> Run:
        return Run(self.done, planned, self.clock() - self.started, float("nan"), self.cut, note)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
