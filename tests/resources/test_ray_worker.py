"""What travels to Ray's workers and comes back, without a cluster: the worker is called here."""

from __future__ import annotations

import importlib.util
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from resources.config import GapConfig, ModelConfig
from resources.datasets.base import SampleFile
from resources.engine import LocalEngine, open_engine
from resources.errors import ConfigError, UnreadableSample
from resources.model import SegmentationModel, build_network, save_model
from resources.pictures import SamplePaths
from resources.ray_worker import DONE, WORK, Pass, Work, Worker, installation, pack, unpack

SIZE = (32, 64)
CONFIG = ModelConfig(architecture="PSPNet", encoder="resnet18", input_size=SIZE)


@dataclass(frozen=True)
class Pngs:
    """Masks are stored as they are."""

    def scan(self) -> list[SampleFile]:
        return []

    def read_mask(self, path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))

    def metadata(self, _samples: list[SampleFile]) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Means:
    """A computation with two models: the mean score of each picture by either, and its note."""

    model: SegmentationModel
    other: SegmentationModel

    def __call__(self, batch, notes):
        means = [model(batch.reduced).logits.mean((1, 2, 3)).tolist() for model in (self.model, self.other)]
        return means, [notes.get(name) for name in batch.ids]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return SegmentationModel(build_network(CONFIG, 3), CONFIG, 3, "first", "cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Five pictures on disk."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(root / f"{i}.png")
    return [SamplePaths(str(i), root / f"{i}.png", None) for i in range(5)]


def piece(samples, notes=None):
    """Samples as they come to a worker, in batches of two."""
    batches = [samples[start : start + 2] for start in range(0, len(samples), 2)]
    return pa.table({WORK: [pickle.dumps(Work(batch, notes or {})) for batch in batches]})


def results(worker, table):
    return [pickle.loads(row) for block in worker(table) for row in block.column(DONE).to_pylist()]


def test_a_worker_gives_what_the_same_batches_give_here(model, samples):
    network = build_network(CONFIG, 3)
    other = SegmentationModel(network, CONFIG, 3, "second", "cpu")
    computation = Means(model, other)
    packed, with_model = pack(Pass(Pngs(), SIZE, 2, 0, computation))
    assert with_model
    found = results(Worker(packed, "cpu", torch.get_num_threads()), piece(samples, {"3": "a note"}))
    config = GapConfig.model_validate({
        "classes": ["a", "b", "c"], "model": CONFIG.model_dump(), "compute": {"batch_size": 2, "workers": 0},
        "source": {"name": "here", "reader": "folder", "root": samples[0].image.parent},
        "targets": [{"name": "there", "reader": "folder", "root": samples[0].image.parent}],
    })  # fmt: skip
    assert found == list(LocalEngine(config).map_batches("source", samples, computation, {"3": "a note"}))
    assert [one.ids for one in found] == [["0", "1"], ["2", "3"], ["4"]]
    assert [one.result[1] for one in found] == [[None, None], [None, "a note"], [None]]


def test_a_model_travels_once_however_often_it_is_named(model):
    twice, _ = pack(Pass(Pngs(), SIZE, 2, 0, Means(model, model)))
    once, _ = pack(Pass(Pngs(), SIZE, 2, 0, model))
    assert len(twice.models) == len(once.models)
    found = unpack(twice, "cpu").computation
    assert found.model is found.other and found.model is not model
    assert found.model.fingerprint == "first"
    assert not pack(Pass(Pngs(), SIZE, 2, 0, len))[1]


def test_an_exported_network_is_opened_from_its_file(tmp_path, model, samples):
    traced = tmp_path / "traced.torchscript"
    torch.jit.trace(model.network, torch.zeros(1, 3, *SIZE)).save(traced)
    from resources.exported.network import open_exported

    exported = SegmentationModel(open_exported(traced, CONFIG, 3, "cpu"), CONFIG, 3, "traced", "cpu")
    packed, _ = pack(Pass(Pngs(), SIZE, 2, 0, Means(exported, exported)))
    assert len(packed.models) < traced.stat().st_size / 10
    (one,) = results(Worker(packed, "cpu", torch.get_num_threads()), piece(samples[:2]))
    (here,) = results(Worker(pack(Pass(Pngs(), SIZE, 2, 0, Means(model, model)))[0], "cpu", 1), piece(samples[:2]))
    assert one.result[0][0] == pytest.approx(here.result[0][0], rel=1e-4)


def test_an_unreadable_picture_comes_back_as_an_error_behind_the_batches_before_it(samples, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    packed, _ = pack(Pass(Pngs(), SIZE, 2, 0, lambda batch, _notes: len(batch.ids)))
    found = results(Worker(packed, "cpu", 1), piece([*samples[:3], SamplePaths("broken", broken, None), samples[4]]))
    assert [type(one).__name__ for one in found] == ["Computed", "UnreadableSample"]
    with pytest.raises(UnreadableSample) as here:
        from resources.pictures import load_picture

        load_picture(Pngs(), SamplePaths("broken", broken, None), SIZE)
    assert str(found[1]) == str(here.value)


def test_a_worker_with_another_installation_computes_nothing(samples, model):
    packed, _ = pack(Pass(Pngs(), SIZE, 2, 0, Means(model, model)))
    older = replace(packed, installed=installation() | {"torch": "1.0"})
    (error,) = results(Worker(older, "cpu", 1), piece(samples))
    assert isinstance(error, ConfigError)
    assert f"(torch {installation()['torch']} for 1.0)" in str(error) and "on every node" in str(error)


def test_without_ray_the_config_error_names_what_to_install(monkeypatch, samples):
    config = GapConfig.model_validate({
        "classes": ["a", "b"], "compute": {"engine": "ray"},
        "source": {"name": "here", "reader": "folder", "root": samples[0].image.parent},
        "targets": [{"name": "there", "reader": "folder", "root": samples[0].image.parent}],
    })  # fmt: skip
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else there(name, *rest))
    with pytest.raises(ConfigError, match=r"compute\.engine.*pip install 'domain-gap\[ray\]'"):
        open_engine(config)


def test_a_saved_model_s_fingerprint_says_nothing_of_the_engine(tmp_path, model, samples):
    root = samples[0].image.parent
    settings = {
        "classes": ["a", "b", "c"], "model": CONFIG.model_dump(),
        "source": {"name": "here", "reader": "folder", "root": root},
        "targets": [{"name": "there", "reader": "folder", "root": root}],
    }  # fmt: skip
    versions = {
        save_model(
            tmp_path, model.network, GapConfig.model_validate({**settings, "compute": compute}), trained_here=True
        )
        for compute in ({"engine": "local"}, {"engine": "ray", "actors": 3})
    }
    assert len(versions) == 1


def test_an_address_without_a_cluster_is_named(samples):
    root = samples[0].image.parent
    config = GapConfig.model_validate({
        "classes": ["a", "b"], "compute": {"engine": "ray", "address": "127.0.0.1:1"},
        "source": {"name": "here", "reader": "folder", "root": root},
        "targets": [{"name": "there", "reader": "folder", "root": root}],
    })  # fmt: skip
    with pytest.raises(ConfigError, match=r"compute\.address: no Ray cluster at '127\.0\.0\.1:1'.*ray start --head"):
        open_engine(config).connect()
