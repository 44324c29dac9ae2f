"""The world `streets`: drawn street scenes of one law, and a small network that is trained on drives of its own.

Belongs here: which drives are pool and which were trained on, the network's settings, keeping its weights.
Does not: drawing, training (the product's own), plants, cases.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gapbench.world import BATCH, Item, World, train_on
from resources.config import ComputeConfig, DatasetConfig, GapConfig, ModelConfig, SourceConfig, TrainingConfig
from resources.datasets.streets import STREETS_CLASSES
from resources.datasets.streets_render import GENERATOR, render
from resources.datasets.streets_scenes import FRAMES_PER_DRIVE, frame_name
from resources.fingerprint import fingerprint
from resources.model import build_network, load_model, save_model, seed_everything

SCENE, SEED = "city", 7
INPUT_SIZE = (96, 160)
DRAWN = (0, 0, 256, 153.6)
"""The part of a drawn picture, in pixels, that has the input's shape: without the lower rim, which is bonnet."""
FRAMES = 8
"""Pictures of a drive; a drive is a block: weather, light, season and a part of the densities are its own."""
POOL_DRIVES = range(26)
TRAINED_DRIVES = range(26, 58)
EPOCHS = 8
EACH_REFERENCE = 4
"""Every so many of the pictures trained on are the reference: 64 of 256."""


def streets(cache: Path) -> World:
    """208 unseen pictures (96, 160) of 26 drives, and 64 of those that the network was trained on.

    The network is trained by the first call, some two minutes on a core, and its weights are kept under `cache`; what
    it was trained with is part of their folder's name.
    """
    config = _config()
    folder = cache / f"streets-{fingerprint(_law(), config.model.model_dump(mode='json'))}"
    if (folder / "model.json").exists():
        reference = drawn(TRAINED_DRIVES, EACH_REFERENCE)
    else:
        trained = drawn(TRAINED_DRIVES)
        _train(config, trained, folder)
        reference = trained[::EACH_REFERENCE]
    return World("streets", config, load_model(folder, config), drawn(POOL_DRIVES), reference)


def drawn(drives: range, each: int = 1) -> list[Item]:
    """Pictures of some drives at the input's size, every `each`-th of them; the same always."""
    places = [drive * FRAMES_PER_DRIVE + frame for drive in drives for frame in range(FRAMES)]
    return [_item(place) for place in places[::each]]


def _item(place: int) -> Item:
    image, mask = render(SCENE, SEED, place)
    name = frame_name(place)
    drive = name.rpartition("_")[0]
    size = INPUT_SIZE[::-1]
    picture = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, DRAWN))
    labels = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, DRAWN))
    return Item(name, drive, drive, picture, labels)


def _law() -> list[object]:
    return [GENERATOR, SCENE, SEED, DRAWN, FRAMES, [*TRAINED_DRIVES]]


def _config() -> GapConfig:
    training = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, learning_rate=3e-3)
    drives = DatasetConfig(name="drives", reader="streets", scene=SCENE, seed=SEED)
    return GapConfig(
        classes=list(STREETS_CLASSES),
        model=ModelConfig(input_size=INPUT_SIZE, training=training),
        source=SourceConfig(name="city", reader="streets", scene=SCENE, seed=SEED),
        targets=[drives],
        compute=ComputeConfig(device="cpu"),
    )


def _train(config: GapConfig, items: list[Item], folder: Path) -> None:
    """Fit the product's default network to the items, encoder pretrained, and keep it in the folder."""
    seed_everything(config.model.training.seed)
    network = build_network(config.model, len(config.class_names), pretrained=True)
    train_on(network, items, config.model)
    save_model(folder, network, config, trained_here=True)
