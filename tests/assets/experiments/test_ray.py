"""The engine 'ray' against 'local' on a cluster of two processors: whole tables, errors, lost workers, addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.campaign import run_experiments
from assets.experiments.geometry import AspectWindows
from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.normalise import ChannelStatistics
from assets.experiments.registry import Experiment
from assets.inference.forward import PassTables, run_pass, sample_paths
from assets.traits.table import catalogue, update_traits
from resources.engine import open_engine
from resources.errors import ConfigError, UnreadableSample
from resources.pictures import SamplePaths
from resources.ray_engine import LostWorkers

pytestmark = pytest.mark.slow

EXPERIMENTS = [
    Experiment(Hypothesis(name, "colour", "title", "statement", ("mean_red",)), *operators)
    for name, operators in {
        "colours": (ChannelStatistics(), ChannelStatistics()),
        "norms": (BatchNormReestimation(), None),
        "windows": (AspectWindows(), None),
    }.items()
]
JOINING = """
import sys
from resources.config import load_config
from resources.datasets import open_reader
from resources.engine import open_engine
from resources.pictures import SamplePaths
from pathlib import Path

config = load_config(Path(sys.argv[1]))
files = open_reader(config, config.source).scan()[:3]
samples = [SamplePaths(one.sample_id, one.image, one.mask) for one in files]
engine = open_engine(config)
for done in engine.map_batches("source", samples, lambda batch, _notes: len(batch.pictures), {}):
    print(done.ids, done.result)
engine.close()
"""


@pytest.fixture(scope="module")
def world(lay_out, network_model):
    """A darker target of another shape, all tables made in this process."""
    return lay_out(network_model, change=lambda picture: picture**1.3 * [0.7, 0.6, 0.5], target_size=(40, 100))


@pytest.fixture(scope="module")
def engine(world):
    """The engine on its own local cluster, which is gone afterwards."""
    import ray
    from ray import cloudpickle

    settings = world.config.model_dump() | {"compute": {**world.config.compute.model_dump(exclude_unset=True)}}
    settings["compute"] |= {"engine": "ray", "actors": 2}
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers know no test modules
    made = open_engine(type(world.config).model_validate(settings))
    made.connect()
    yield made
    made.close()
    assert not ray.is_initialized()


def same(one, other) -> bool:
    """Whether two tables agree to the last bit."""
    return one.read().equals(other.read(), null_equal=True)


def test_embeddings_evaluation_and_traits_are_those_of_the_local_engine(world, engine):
    def run(*arguments):
        return engine.map_batches("away", *arguments)

    manifest = world.tables["away"]["manifest"]
    made = {name: world.store.table("ray", name) for name in ("embeddings", "evaluation", "traits")}
    tables = PassTables(made["embeddings"], made["evaluation"])
    run_pass(world.campaign.model, manifest, run, tables, code="1", what="ray")
    update_traits(
        manifest, None, run, catalogue(world.config), made["traits"], input_size=world.config.model.input_size,
        code="1", what="ray",
    )  # fmt: skip
    for name, table in made.items():
        assert table.read().height == 20
        assert same(table, world.store.table("away", name)), name


def test_experiments_are_those_of_the_local_engine(world, engine):
    found = {}
    for place, campaign in (("here", world.campaign), ("there", replace(world.campaign, engine=engine))):
        tables = {each.id: world.store.table(place, each.id, id_column="row_id") for each in EXPERIMENTS}
        found[place] = run_experiments(campaign, EXPERIMENTS, tables, place)
    for each in EXPERIMENTS:
        tables = [world.store.table(place, each.id, id_column="row_id") for place in found]
        assert tables[0].read().height >= 20
        assert same(*tables), each.id
        (local, counts), (remote, others) = (found[place][each.id] for place in found)
        assert local.parameters == remote.parameters and counts == others


def test_an_unreadable_picture_is_told_in_its_place(world, engine, tmp_path):
    paths = list(sample_paths(world.tables["away"]["manifest"]).values())[:5]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    paths.append(SamplePaths("broken", broken, None))
    results = engine.map_batches("away", paths, lambda batch, _notes: len(batch.ids), {})
    assert next(results).ids == [path.sample_id for path in paths[:4]]
    with pytest.raises(UnreadableSample, match=r"broken\.png"):
        next(results)


def test_an_error_of_the_code_is_told_in_one_line(world, engine):
    def broken(batch, _notes):
        raise ValueError("nobody thought of this")

    paths = list(sample_paths(world.tables["away"]["manifest"]).values())[:2]
    with pytest.raises(LostWorkers, match=r"^compute\.engine: Ray gave a pass up: ValueError: nobody thought of this$"):
        list(engine.map_batches("away", paths, broken, {}))


@dataclass(frozen=True)
class Dying:
    """Ends its process at the second batch, once."""

    mark: Path
    victim: str

    def __call__(self, batch, _notes):
        if self.victim in batch.ids and not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        return os.getpid()


def test_a_lost_worker_s_batches_are_computed_again(world, engine, tmp_path):
    paths = list(sample_paths(world.tables["source"]["manifest"]).values())
    done = list(engine.map_batches("source", paths, Dying(tmp_path / "died", paths[5].sample_id), {}))
    assert (tmp_path / "died").exists()
    assert [name for one in done for name in one.ids] == [path.sample_id for path in paths]
    assert os.getpid() not in {one.result for one in done}


def test_threads_that_no_node_has_are_a_config_error(world, engine):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        paths = list(sample_paths(world.tables["away"]["manifest"]).values())
        with pytest.raises(ConfigError, match=r"compute\.actor_cpus.*\(2\).*\(3\)"):
            next(engine.map_batches("away", paths, len, {}))
    finally:
        torch.set_num_threads(threads)


def test_another_process_joins_the_cluster_by_its_address_and_leaves_it_running(world, engine, tmp_path):
    import ray
    import yaml

    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    settings = world.config.model_dump(mode="json", exclude_unset=True)
    settings["compute"] |= {"engine": "ray", "address": address}
    (tmp_path / "gap.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "joining.py").write_text(JOINING)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, tmp_path / "joining.py", tmp_path / "gap.yaml"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"{[f'g00_00{i}' for i in range(2)] + ['g01_002']} 3"]
    assert ray.cluster_resources()["CPU"] == 2
