"""The loop: it lowers the loss, keeps its budget, and ends alike whether it was killed or not."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from assets.adaptation.networks import everything, make_trainable, starting_with, training_mode
from assets.adaptation.training import Descent, Plan, progress_of, rate_at, train
from assets.experiments.operators import NotApplicable
from resources.errors import ModelError


class Regression(Descent):
    """Dropout, noise of its own a step and a module beside the network: all that a resumed run must get right."""

    def __init__(self, seconds: float = 0.0, tick=lambda _seconds: None) -> None:
        torch.manual_seed(1)
        self.chosen = everything
        self.beside = nn.Linear(4, 1)
        self.seconds, self.tick, self.seen = seconds, tick, []

    def batches(self, first, end):
        for step in range(first, end):
            yield torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

    def loss(self, network, batch, progress, draws):
        self.seen.append(progress)
        self.tick(self.seconds)
        noise = torch.randn(batch.shape, generator=draws)
        return ((network(batch + 0.1 * noise) + self.beside(batch) - batch.sum(1, keepdim=True)) ** 2).mean()


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))


def state_of(network, objective):
    return {**network.state_dict(), **{f"beside.{n}": t for n, t in objective.beside.state_dict().items()}}


class Clock:
    """A clock that the steps move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def test_it_learns_and_is_decided_by_the_plan(tmp_path):
    ends = []
    for i in range(2):
        network, objective = build(), Regression()
        run = train(network, objective, Plan(80, 600, 1e-2, 7, "v"), tmp_path / f"{i}", what="test")
        ends.append(state_of(network, objective))
        assert (run.steps, run.planned, run.cut) == (80, 80, False)
        assert run.loss < 1.5 and not network.training
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_an_interrupted_run_ends_bit_for_bit_like_another(tmp_path, monkeypatch):
    monkeypatch.setattr("assets.adaptation.training.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("assets.adaptation.training.SAVE_SHARE", math.inf)
    plan = Plan(30, 600, 1e-2, 7, "v")
    whole, objective = build(), Regression()
    train(whole, objective, plan, tmp_path / "whole", what="test")
    expected = state_of(whole, objective)

    class Stopped(Regression):
        def loss(self, network, batch, progress, draws):
            if len(self.seen) == 13:
                raise KeyboardInterrupt
            return super().loss(network, batch, progress, draws)

    with pytest.raises(KeyboardInterrupt):
        train(build(), Stopped(), plan, tmp_path / "state", what="test")
    network, objective = build(), Regression()
    run = train(network, objective, plan, tmp_path / "state", what="test")
    assert len(objective.seen) < 30, "it did not begin anew"
    assert run.steps == 30
    assert all(torch.equal(expected[name], tensor) for name, tensor in state_of(network, objective).items())


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
import assets.adaptation.training as training
from test_training import Regression, build, state_of
training.SAVE_EVERY_S, training.SAVE_SHARE = 0.0, float("inf")
network, objective = build(), Regression(0.05 if len(sys.argv) > 2 else 0.0, time.sleep)
training.train(network, objective, training.Plan(200, 600, 1e-2, 7, "v"), Path(sys.argv[1]) / "state", what="kill")
torch.save(state_of(network, objective), Path(sys.argv[1]) / "end.pt")
"""


@pytest.mark.slow
def test_a_killed_process_resumes(tmp_path):
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    command, root = [sys.executable, "-c", script], Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    (killed := tmp_path / "killed").mkdir()
    (whole := tmp_path / "whole").mkdir()
    process = subprocess.Popen([*command, str(killed), "slowly"], cwd=root, env=environment)
    deadline = time.monotonic() + 300
    while not (killed / "state").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = torch.load(killed / "state", weights_only=True)["step"]
    assert 0 < reached < 200
    for folder in (killed, whole):
        subprocess.run([*command, str(folder)], cwd=root, env=environment, check=True)
    ends = [torch.load(folder / "end.pt", weights_only=True) for folder in (killed, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_a_state_of_another_plan_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr("assets.adaptation.training.SAVE_EVERY_S", 0.0)
    train(build(), Regression(), Plan(5, 600, 1e-2, 7, "v"), tmp_path / "state", what="test")
    objective = Regression()
    train(build(), objective, Plan(5, 600, 1e-2, 7, "another"), tmp_path / "state", what="test")
    assert len(objective.seen) == 5


class TestBudget:
    @pytest.mark.parametrize("seconds", [0.3, 0.7, 1.0])
    def test_it_is_kept_within_a_step_and_the_rate_still_falls(self, tmp_path, seconds):
        clock = Clock()
        objective = Regression(seconds, clock.tick)
        run = train(build(), objective, Plan(1000, 20, 1e-2, 7, "v"), tmp_path / "state", what="test", clock=clock)
        assert run.cut
        assert 20 - seconds <= run.seconds <= 20
        assert run.steps == len(objective.seen) == int(20 / seconds + 1e-6)
        assert objective.seen[-1] > 0.9 and objective.seen == sorted(objective.seen)

    def test_time_before_a_kill_counts(self, tmp_path, monkeypatch):
        monkeypatch.setattr("assets.adaptation.training.SAVE_EVERY_S", 0.0)
        clock, plan = Clock(), Plan(1000, 20, 1e-2, 7, "v")

        class Stopped(Regression):
            def loss(self, network, batch, progress, draws):
                if len(self.seen) == 12:
                    raise KeyboardInterrupt
                return super().loss(network, batch, progress, draws)

        with pytest.raises(KeyboardInterrupt):
            train(build(), Stopped(1.0, clock.tick), plan, tmp_path / "state", what="test", clock=clock)
        clock.tick(500)
        objective = Regression(1.0, clock.tick)
        run = train(build(), objective, plan, tmp_path / "state", what="test", clock=clock)
        assert run.seconds == pytest.approx(20, abs=1)
        assert len(objective.seen) == pytest.approx(8, abs=1)

    def test_at_least_one_step_is_done(self, tmp_path):
        clock = Clock()
        run = train(
            build(), Regression(5.0, clock.tick), Plan(9, 1, 1e-2, 7, "v"), tmp_path / "s", what="t", clock=clock
        )
        assert (run.steps, run.cut) == (1, True)

    @pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
    def test_an_even_pace_within_the_budget_leaves_the_schedule_to_the_steps(self, share):
        plan = Plan(100, 50, 1e-2, 7, "v")
        for step in range(100):
            assert progress_of(step, share * 50 * step / 100, plan) == pytest.approx(step / 100)

    def test_the_schedule_ends_with_the_budget(self):
        plan = Plan(100, 50, 1e-2, 7, "v")
        assert progress_of(20, 50, plan) == 1
        assert 0.2 < progress_of(20, 30, plan) < 0.6


def test_the_rate_rises_from_a_small_first_step_and_falls_to_none():
    rates = [rate_at(step / 200, 200) for step in range(201)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(1, abs=0.01) and rates.index(max(rates)) == pytest.approx(20, abs=1)
    assert rates[110] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] == pytest.approx(0)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_only_what_is_chosen_is_trained_and_dropout_rests_elsewhere():
    network = build()
    parameters = make_trainable(network, starting_with("3."))
    assert {id(p) for p in parameters} == {id(p) for p in network[3].parameters()}
    training_mode(network)
    assert network[3].training and not network[0].training
    with pytest.raises(NotApplicable, match="none of the parameters"):
        make_trainable(network, starting_with("encoder."))


def test_batch_norm_keeps_its_statistics(trained):
    from assets.adaptation.networks import trainable_copy

    network = trainable_copy(trained)
    make_trainable(network, everything)
    training_mode(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
    network(torch.rand(2, 3, 32, 48))
    assert network.decoder.training
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    class Broken(Regression):
        def loss(self, network, batch, progress, draws):
            return super().loss(network, batch, progress, draws) * math.nan

    with pytest.raises(ModelError, match=r"lower adaptation\.learning_rate"):
        train(build(), Broken(), Plan(3, 60, 1e-2, 7, "v"), tmp_path / "state", what="test")
