"""A run with an exported network ends in the report of a run with the network; what it can't do is skipped there."""

from __future__ import annotations

import json

import pytest
import torch

from resources.model import load_model

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("world")]

STATISTICS = """
from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.registry import Experiment, register

DARK = Hypothesis("statistics", "model_statistics", "statistics", "The target is too dark for them.", ("brightness",))
register(Experiment(DARK, BatchNormReestimation()))
"""


def test_a_run_with_an_exported_network(world, worlds, tmp_path):
    store = world.store
    trained = load_model(store.path("models", "current", "model.json").parent, world.config)
    pictures = torch.rand(2, 3, *trained.input_size)
    program = torch.export.export(trained.network, (pictures,), dynamic_shapes=({0: torch.export.Dim("n")},))
    other = world.copy(tmp_path / "w")
    (other.root / "exported_experiments.py").write_text(STATISTICS)
    torch.export.save(program, other.root / "network.pt2")
    other.write_config(
        model={"checkpoint": "network.pt2", "embedding_layer": "encoder", "input_size": list(trained.input_size)},
        experiments={"modules": ["exported_experiments"], "only": ["exposure", "statistics"]},
        targets=[worlds.folder("dark")],
    )
    assert not other.run().failed
    for key in ("source", "dark"):
        expected, found = (one.rows(key, "evaluation")["loss"].to_numpy() for one in (world, other))
        assert found == pytest.approx(expected, rel=1e-3)
    documents = [
        json.loads(one.store.path("reports", "dark", "report.json").read_text()) for one in (world, other)
    ]  # fmt: skip
    gaps = [document["performance_gap"]["loss_gap"] for document in documents]
    assert gaps[1] == pytest.approx(gaps[0], rel=1e-3)
    assert documents[1]["model"]["architecture"] == "network.pt2"
    experiments = {row["id"]: row for row in documents[1]["experiments"]}
    assert experiments["statistics"]["verdict"] == "skipped"
    assert experiments["statistics"]["reason"].startswith("a torch.export archive runs as it was exported")
    assert experiments["exposure"]["verdict"] != "skipped"
