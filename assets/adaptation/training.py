"""The training loop of all adaptations: planned in steps, limited in time, resumed after a kill as if there was none.

Belongs here: steps, optimiser, schedule, budget, the state on disk. Does not: losses (the methods' modules), data.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from assets.adaptation.networks import Chosen, make_trainable, training_mode
from resources.errors import ModelError
from resources.progress import track

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHT_DECAY = 1e-2
SAVE_EVERY_S = 5.0
SAVE_SHARE = 0.05
"""Saving may take this share of the time: large networks are saved less often."""
WARM_UP = 0.1
"""Share of a run in which the rate rises: the first steps of Adam move every weight by the whole rate."""
SLACK = 0.25
"""How far, as a share of the budget, time may run ahead of the steps before it shortens the schedule."""


@dataclass(frozen=True)
class Plan:
    """One run: `steps` decide its result, `seconds` limit it, `version` names all that decides it (not the limit)."""

    steps: int
    seconds: float
    learning_rate: float
    seed: int
    version: str


@dataclass(frozen=True)
class Run:
    """What a run did. `seconds` counts all its parts where it was killed; `cut` says that its budget ended it."""

    steps: int
    planned: int
    seconds: float
    loss: float
    cut: bool
    note: str = ""


class Objective(Protocol):
    """What is minimised. `beside` is trained, saved and resumed with the network: discriminators, thresholds."""

    beside: nn.Module
    chosen: Chosen
    guarded: bool
    """Whether `accepts` decides; the state on disk is then always one that it accepted."""

    def prepare(self, network: nn.Module) -> None:
        """What is learned once before the first step, into buffers of `beside`."""

    def batches(self, first: int, end: int) -> Iterator[Any]:
        """What the steps first..end−1 are fed with."""

    def loss(self, network: nn.Module, batch: Any, progress: float, draws: torch.Generator) -> Tensor:
        """The loss of one step; `progress` goes from 0 to 1."""

    def accepts(self, network: nn.Module, step: int) -> bool | None:
        """Asked after each step: whether to go on from here, or back to where it last said so; None: not looked."""


class Descent:
    """The parts of an objective that most have no need for."""

    guarded = False

    def prepare(self, network: nn.Module) -> None:
        """Nothing to learn beforehand."""

    def accepts(self, network: nn.Module, step: int) -> bool | None:  # noqa: ARG002
        """No guard."""
        return None


def progress_of(step: int, seconds: float, plan: Plan) -> float:
    """How far a run is: by its steps, or by its time where that runs ahead by more than the slack.

    A run that keeps its budget at an even pace is thus decided by its steps alone; one that does not ends its schedule
    with its time.
    """
    by_time = (seconds / plan.seconds - SLACK) / (1 - SLACK)
    return min(1.0, max(step / plan.steps, by_time))


def rate_at(progress: float, steps: int) -> float:
    """The rate of a step as a share of the plan's: a linear rise over `WARM_UP`, then a falling half cosine."""
    rise = min(1.0, (progress + 1 / steps) / WARM_UP)
    fall = max(0.0, progress - WARM_UP) / (1 - WARM_UP)
    return rise * (1 + math.cos(math.pi * fall)) / 2


def train(
    network: nn.Module, objective: Objective, plan: Plan, state_path: Path, *, what: str,
    clock: Callable[[], float] = time.monotonic,
) -> Run:  # fmt: skip
    """Train a network in place, from the state on disk where that is of the same plan; leaves evaluation mode.

    AdamW (Loshchilov & Hutter 2019) at the rate of `rate_at`. At least one step is done; none begins
    that would end beyond the budget. Every step draws from a seed of its own. Raises ModelError when the loss is no
    number.
    """
    started = clock()
    loop = _Loop(network, objective, plan, state_path)
    resumed = loop.resume()
    begun, lasting = started - loop.seconds, 0.0
    if not resumed:
        objective.prepare(network.eval())
        loop.begin()
    cut, note = False, ""
    for batch in track(objective.batches(loop.step, plan.steps), what, plan.steps - loop.step):
        now = clock() - begun
        if loop.step and now + lasting > plan.seconds:
            cut = True
            break
        loop.advance(batch, progress_of(loop.step, now, plan))
        accepted = objective.accepts(network, loop.step)
        loop.seconds = clock() - begun
        lasting = loop.seconds - now
        if accepted is False:
            note = f"the guard on the source stopped it after step {loop.step}"
            loop.go_back()
            note += f", back to step {loop.step}"
            break
        loop.save_when_due(clock, accepted)
    network.eval()
    loop.seconds = clock() - begun
    return Run(loop.step, plan.steps, loop.seconds, loop.mean_loss, cut, note)


class _Loop:
    """A run's position: weights, optimiser, steps, seconds; kept on disk."""

    def __init__(self, network: nn.Module, objective: Objective, plan: Plan, path: Path) -> None:
        import torch

        self.network, self.objective, self.plan, self.path = network, objective, plan, path
        parameters = make_trainable(network, objective.chosen)
        self.own = [*parameters, *objective.beside.parameters()]
        self.optimiser = torch.optim.AdamW(self.own, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)
        self.step, self.seconds, self.mean_loss = 0, 0.0, math.nan
        self.saved_at: float | None = None
        self.save_seconds = 0.0

    def begin(self) -> None:
        """A guarded run can be gone back to its beginning."""
        if self.objective.guarded:
            self.save()

    def resume(self) -> bool:
        """Take up the state on disk, where there is one of this plan."""
        import torch

        if not self.path.exists():
            return False
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["version"] != self.plan.version:
            return False
        self._take(state)
        self.seconds = state["seconds"]
        return True

    def advance(self, batch: Any, progress: float) -> None:
        """One step."""
        import torch

        draws = torch.Generator().manual_seed(_step_seed(self.plan.seed, self.step))
        torch.manual_seed(_step_seed(self.plan.seed, self.step))  # dropout draws from the global state
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * rate_at(progress, self.plan.steps)
        training_mode(self.network)
        loss = self.objective.loss(self.network, batch, progress, draws)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.network.eval()
        found = float(loss.detach())
        if not math.isfinite(found):
            raise ModelError("adaptation: the loss is no finite number; lower adaptation.learning_rate")
        self.step += 1
        weight = max(1 / self.step, 0.05)  # of about the last twenty steps
        self.mean_loss = found if self.step == 1 else (1 - weight) * self.mean_loss + weight * found

    def save_when_due(self, clock: Callable[[], float], accepted: bool | None) -> None:
        """Keep the state on disk every few seconds; one that a guard accepted always, since it is gone back to."""
        now = clock()
        self.saved_at = now if self.saved_at is None else self.saved_at
        wait = max(SAVE_EVERY_S, self.save_seconds / SAVE_SHARE)
        if accepted or (not self.objective.guarded and now - self.saved_at >= wait):
            self.save()
            self.saved_at = clock()
            self.save_seconds = self.saved_at - now

    def save(self) -> None:
        """Write the state whole or not at all."""
        import torch

        temporary = self.path.with_name(f"{self.path.name}.partial")
        torch.save(self._state(), temporary)
        os.replace(temporary, self.path)  # noqa: PTH105

    def go_back(self) -> None:
        """Back to the last state that the guard accepted."""
        import torch

        self._take(torch.load(self.path, map_location="cpu", weights_only=True))

    def _state(self) -> dict[str, Any]:
        return {
            "version": self.plan.version, "step": self.step, "seconds": self.seconds, "mean_loss": self.mean_loss,
            "network": self.network.state_dict(), "beside": self.objective.beside.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip

    def _take(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.objective.beside.load_state_dict(state["beside"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.mean_loss = state["step"], state["mean_loss"]


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % (1 << 63)
