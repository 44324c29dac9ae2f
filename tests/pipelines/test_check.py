"""The doctor on small folders with one mistake each, and on a network whose mistake is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from assets.inference.sanity import Compared, Sanity, variants
from pipelines.check import Diagnosis, Finding, diagnose, told
from pipelines.definitions import allow_user_modules
from resources.config import ModelConfig, load_config

NETWORK = """
import torch
from torch import nn


class ByColour(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, batch):
        return self.scale * self.layer(batch)[:, ORDER]


def network():
    return ByColour()
"""
ORDERS = {"right": [0, 1, 2], "other": [1, 2, 0]}


def put(root, *, count=12, ids=(0, 1, 2), labelled=True, seed=0) -> None:
    """Pictures of red, green and blue blocks with masks that say which, under some ids."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        classes = rng.choice(3, (6, 8), p=(0.2, 0.3, 0.5)).repeat(8, 0).repeat(8, 1)
        image = np.full((*classes.shape, 3), 40, np.uint8)
        np.put_along_axis(image, classes[..., None], 220, axis=2)
        name = f"drive{i // 2}_{i:03d}.png"
        Image.fromarray(image).save(root / "images" / name)
        if labelled:
            Image.fromarray(np.array(ids, np.uint8)[classes]).save(root / "masks" / name)


@pytest.fixture
def world(tmp_path):
    """Write a config over day/ and dusk/; a model by name where one is wanted."""

    def world(network: str | None = None, **changes):
        for name, seed in (("day", 0), ("dusk", 1)):
            if not (tmp_path / name).exists():
                put(tmp_path / name, seed=seed)
        settings: dict = {"input_size": [64, 64]}
        if network is not None:
            import torch
            from safetensors.torch import save_file

            (tmp_path / f"net_{network}.py").write_text(NETWORK.replace("ORDER", str(ORDERS[network])))
            save_file({"scale": torch.tensor(8.0)}, tmp_path / "weights.safetensors")
            settings |= {
                "factory": f"net_{network}:network",
                "embedding_layer": "layer",
                "mean": [0.0] * 3,
                "std": [1.0] * 3,
            }
            settings |= {"checkpoint": "weights.safetensors"}
        raw = {
            "classes": ["road", "sky", "car"], "model": settings,
            "source": {"name": "day", "reader": "folder", "root": "day", "group": "^(drive[0-9])_"},
            "targets": [{"name": "dusk", "reader": "folder", "root": "dusk", "group": "^(drive[0-9])_"}],
            "compute": {"device": "cpu"},
        }  # fmt: skip
        path = tmp_path / "gap.yaml"
        path.write_text(yaml.safe_dump({**raw, **changes}))
        allow_user_modules(path)
        return load_config(path)

    return world


def found(config) -> Diagnosis:
    return Diagnosis(list(diagnose(config)))


def of(diagnosis: Diagnosis, about: str, level: str) -> list[Finding]:
    return [one for one in diagnosis.findings if one.about == about and one.level == level]


class TestModel:
    def test_a_good_model_is_fine(self, world):
        diagnosis = found(world("right"))
        assert not diagnosis.wrong
        assert any("chance is 1.099" in one.text for one in of(diagnosis, "model", "fine"))

    def test_what_lowers_the_loss_is_told_with_what_to_do(self, world):
        [swapped, plain, *_] = variants(ModelConfig())
        compared = [Compared(swapped, 0.4, 24, 24, 2**-24), Compared(plain, 0.5, 12, 24, 0.6)]
        measured = Sanity(24, 0.8, 0.7, 0.4, 2.9, 1.9, compared, None, 0.7, 0.1)
        [_, colours] = told(measured, world())
        assert colours.level == "wrong" and "BGR" in colours.text and "exchange" in colours.fix
        [chance, _] = told(replace(measured, loss=2.0), world())
        assert chance.level == "wrong" and "no better than chance" in chance.text

    def test_another_order_of_the_classes_is_told_alone(self, world):
        [wrong] = found(world("other")).wrong
        assert wrong.fix.endswith("classes: [sky, car, road]")

    def test_a_checkpoint_that_does_not_fit_is_refused(self, world):
        world("right")
        diagnosis = found(world(model={"checkpoint": "weights.safetensors", "input_size": [64, 64]}))
        assert diagnosis.refused
        assert any("does not fit" in one.text for one in diagnosis.wrong)


class TestData:
    @pytest.fixture
    def looked(self, world, monkeypatch):
        """Findings without the model, which takes seconds to build."""
        monkeypatch.setattr("pipelines.check._model", lambda _settings: iter(()))
        return lambda **changes: found(world(**changes))

    def test_sound_sets(self, looked):
        diagnosis = looked()
        assert not diagnosis.wrong
        assert diagnosis.as_values("go")["ok"] is True
        assert any("12 pictures (12 with masks, 6 groups)" in one.text for one in of(diagnosis, "data day", "fine"))

    def test_ids_that_no_map_knows(self, looked, tmp_path):
        put(tmp_path / "dusk", ids=(0, 1, 77))
        [wrong] = of(looked(), "data dusk", "wrong")
        assert "77" in wrong.text and "labels" in wrong.fix

    def test_masks_of_nothing_and_much_void(self, looked, tmp_path):
        put(tmp_path / "dusk", ids=(255, 255, 255))
        assert any("12 of 12 masks are empty" in one.text for one in looked().wrong)
        put(tmp_path / "dusk", ids=(0, 1, 255))
        notes = of(looked(), "labels dusk", "note")
        assert any("void" in one.text for one in notes)
        assert any("in the source's masks and not here: car" in one.text for one in notes)

    def test_a_mask_of_another_size(self, looked, tmp_path):
        put(tmp_path / "dusk")
        Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / "dusk/masks/drive0_000.png")
        [wrong] = of(looked(), "data dusk", "wrong")
        assert "1 of 12" in wrong.text and "5×3" in wrong.text

    def test_groups_labels_and_shape(self, looked, tmp_path):
        put(tmp_path / "dusk", labelled=False)
        plain = {"name": "dusk", "reader": "folder", "root": "dusk"}
        diagnosis = looked(targets=[plain], model={"input_size": [32, 128]}, classes=["strada", "sky", "car"])
        notes = " ".join(one.text for one in of(diagnosis, "data dusk", "note"))
        assert "one group only" in notes and "no masks" in notes and "stretched" in notes
        assert any("road" in one.text for one in of(diagnosis, "classes", "note"))

    def test_a_set_that_can_not_be_read_does_not_hide_the_others(self, looked, tmp_path):
        put(tmp_path / "dusk")
        for path in (tmp_path / "dusk/images").iterdir():
            path.unlink()
        diagnosis = looked()
        assert diagnosis.refused
        assert of(diagnosis, "data day", "fine") and of(diagnosis, "catalogue", "fine")
        assert "no pictures" in of(diagnosis, "data dusk", "wrong")[0].text
