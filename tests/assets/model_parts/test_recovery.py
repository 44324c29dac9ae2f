"""A part trained alone learns, alone, the same twice, within its budget, and leaves the network as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from assets.model_parts import recovery
from assets.model_parts.parts import examine
from assets.model_parts.recovery import tune_part, tuned
from resources.pictures import Batch, Picture


@pytest.fixture
def load():
    """Batches of noise pictures whose classes are what the pictures' first channel says."""
    drawn = torch.rand(8, 3, 48, 64, generator=torch.Generator().manual_seed(1))

    def batches(order):
        for start in range(0, len(order), recovery.BATCH):
            chosen = [drawn[int(name)] for name in order[start : start + recovery.BATCH]]
            pictures = [
                Picture(str(i), np.zeros((48, 64, 3), np.uint8), (picture[0] > 0.5).numpy().astype(np.uint8), picture)
                for i, picture in enumerate(chosen)
            ]
            yield Batch(pictures, torch.stack(chosen))

    return batches


IDS = [str(i) for i in range(8)]


def test_only_the_part_learns_and_only_while_asked_for(model, load):
    examined = examine(model)
    part = next(part for part in examined.parts if part.name == "stage1")
    before = copy.deepcopy(model.network.state_dict())
    found = tune_part(model, part, IDS, load, 600, seed=0)
    assert found.steps == found.planned == recovery.STEPS
    assert set(found.weights) == {"stage1.0.weight", "stage1.1.weight", "stage1.1.bias"}
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "running statistics included"
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    assert not torch.equal(found.weights["stage1.0.weight"], before["stage1.0.weight"])
    with tuned(model.network, found.weights):
        assert torch.equal(model.network.stage1[0].weight, found.weights["stage1.0.weight"])
    assert torch.equal(model.network.stage1[0].weight, before["stage1.0.weight"])


def test_the_same_twice_and_cut_by_the_budget(model, load, monkeypatch):
    monkeypatch.setattr(recovery, "STEPS", 4)
    part = examine(model).parts[-1]
    first, second = (tune_part(model, part, IDS, load, 600, seed=3) for _ in range(2))
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert tune_part(model, part, IDS, load, 0, seed=3).steps == 0
