"""A small world for pipeline tests: rendered folders, a network trained on them for seconds, a config for both."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import yaml

from pipelines.definitions import allow_user_modules, build_defs
from pipelines.home import open_instance
from pipelines.rerun import Outcome, Rerun
from resources.config import GapConfig, load_config
from resources.datasets.streets import STREETS_CLASSES, StreetsReader
from resources.sample_store import SampleStore

INPUT_SIZE = (80, 128)
NETWORK = {"architecture": "PSPNet"}  # trains in a third of the default's time
TRAINING = {"epochs": 8, "batch_size": 8, "learning_rate": 4e-3}
USER_MODULE = """
from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.registry import Experiment, register


class Brighten:
    def fit(self, destination, origin):
        return {"gain": float(destination.channel_mean.mean() / origin.channel_mean.mean())}

    def apply(self, batch, parameters):
        return (batch * parameters["gain"]).clamp(0, 1)


DARKER = Hypothesis("brighten", "exposure", "brightness", "The target is darker.", ("brightness",))
register(Experiment(DARKER, Brighten()))
"""


@dataclass
class World:
    """Folders, config and store of one small world."""

    root: Path

    @property
    def config_path(self) -> Path:
        return self.root / "gap.yaml"

    @property
    def config(self) -> GapConfig:
        return load_config(self.config_path)

    @property
    def store(self) -> SampleStore:
        return SampleStore(str(self.root / "store"))

    def defs(self) -> dg.Definitions:
        allow_user_modules(self.config_path)
        return build_defs(self.config)

    def loop(self) -> Rerun:
        return Rerun(self.defs(), open_instance(self.store))

    def run(self) -> Outcome:
        return self.loop().run()

    def rows(self, key: str, *names: str) -> pl.DataFrame:
        id_column = "row_id" if names[0] in ("experiments", "recipe") else "sample_id"
        return self.store.table(key, *names, id_column=id_column).read()

    def copy(self, root: Path) -> World:
        """The same folders and config with an empty store."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("store"))
        other = World(root)
        other.write_config()
        return other

    def write_config(self, **changes: object) -> None:
        """A config whose store lies beside it."""
        settings = {
            "store": str(self.root / "store"),
            "classes": list(STREETS_CLASSES),
            "model": {**NETWORK, "input_size": list(INPUT_SIZE), "training": TRAINING},
            "source": {**folder("city"), "holdout_share": 0.45},
            "targets": [folder("dark"), folder("bare")],
            "model_parts": {"enabled": False},
            "experiments": {"modules": ["own_experiments"], "only": ["exposure", "channel_statistics", "brighten"]},
            "statistics": {"permutations": 99, "bootstrap": 100, "noise_floor_draws": 10},
            **changes,
        }
        self.config_path.write_text(yaml.safe_dump(settings))


def build_world(root: Path, *, city: int = 110, dark: int = 60) -> World:
    """Render the folders: a source of 11 drives, a darker target of 6, and an unlabelled target of 2."""
    root.mkdir(parents=True)
    render(root / "city", "city", city)
    render(root / "dark", "other_camera", dark)
    render(root / "bare", "same_city", 20)
    shutil.rmtree(root / "bare" / "masks")
    (root / "own_experiments.py").write_text(USER_MODULE)
    world = World(root)
    world.write_config()
    return world


def folder(name: str) -> dict[str, object]:
    """The data set of a folder, in a config."""
    return {"name": name, "reader": "folder", "root": name, "group": "^(.*)_[0-9]+$"}


def render(folder: Path, scene: str, count: int) -> None:
    StreetsReader(
        folder=folder, scene=scene, count=count, seed=0, select=None, limit=None, classes=STREETS_CLASSES
    ).scan()
