"""The built-in streets: what a picture depends on, how the scenes differ, and what stays on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from resources.config import Selection
from resources.datasets import streets
from resources.datasets.base import IGNORE
from resources.datasets.streets import SCENES, STREETS_CLASSES, StreetsReader
from resources.datasets.streets_render import render
from resources.datasets.streets_scenes import Density, generator
from resources.errors import DatasetError

PICTURES = 60
STEP = 5  # two pictures of each drive, so that more drives are seen


@pytest.fixture(scope="module")
def scenes():
    """Per scene: pictures (60, height, width, 3) in 0..1, masks (60, height, width)."""
    drawn = {}
    for scene in SCENES:
        pictures, masks = zip(*(render(scene, 0, STEP * i) for i in range(PICTURES)), strict=True)
        drawn[scene] = np.stack(pictures) / np.float32(255), np.stack(masks)
    return drawn


def shares(masks):
    return np.stack([(masks == index).mean(axis=(1, 2)) for index in range(len(STREETS_CLASSES))], axis=1)


@pytest.fixture
def reader(tmp_path):
    def build(*, scene="city", count=3, seed=0, select=None, limit=None, classes=STREETS_CLASSES, folder="data"):
        return StreetsReader(
            folder=tmp_path / folder, scene=scene, count=count, seed=seed, select=select, limit=limit, classes=classes
        )

    return build


@pytest.fixture
def ids(reader):
    def scanned(**arguments):
        return [sample.sample_id for sample in reader(**arguments).scan()]

    return scanned


@pytest.fixture
def rendered_indices(monkeypatch):
    """The picture numbers that are rendered during a test."""
    seen = []

    def recorded(scene, seed, index):
        seen.append(index)
        return render(scene, seed, index)

    monkeypatch.setattr(streets, "render", recorded)
    return seen


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


class TestPictures:
    def test_same_key_same_bytes(self):
        first, second = render("city", 3, 17), render("city", 3, 17)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    @pytest.mark.parametrize("other", [("same_city", 3, 17), ("city", 4, 17), ("city", 3, 18)])
    def test_other_key_other_picture(self, other):
        assert not np.array_equal(render("city", 3, 17)[1], render(*other)[1])

    def test_shapes(self):
        picture, mask = render("city", 0, 0)
        assert picture.shape == (160, 256, 3)
        assert mask.shape == (160, 256)
        assert picture.dtype == mask.dtype == np.uint8

    def test_only_class_ids(self, scenes):
        for _, masks in scenes.values():
            assert set(np.unique(masks)) <= {*range(len(STREETS_CLASSES)), IGNORE}
            assert (masks == IGNORE).mean() < 0.05

    def test_every_class_occurs_in_every_scene(self, scenes):
        for _, masks in scenes.values():
            assert shares(masks).mean(axis=0).min() > 0.002

    def test_nothing_is_clipped_to_a_blank(self, scenes):
        for pictures, _ in scenes.values():
            assert (pictures >= 1).mean() < 0.02
            assert pictures.std(axis=(1, 2, 3)).min() > 0.05


class TestLaws:
    @pytest.mark.parametrize("scene", ["same_city", "other_camera"])
    def test_citys_place(self, scenes, scene):
        assert SCENES[scene].place == SCENES["city"].place
        ours, citys = shares(scenes[scene][1]), shares(scenes["city"][1])
        p_values = [ks_2samp(ours[:, i], citys[:, i]).pvalue for i in range(len(STREETS_CLASSES))]
        assert min(p_values) * len(p_values) > 0.01
        assert np.abs(ours.mean(axis=0) - citys.mean(axis=0)).max() < 0.04

    def test_other_camera_differs_in_colour(self, scenes):
        means = {scene: pictures.mean(axis=(1, 2)) for scene, (pictures, _) in scenes.items()}
        for channel in range(3):
            assert ks_2samp(means["other_camera"][:, channel], means["city"][:, channel]).pvalue < 1e-3
            assert ks_2samp(means["same_city"][:, channel], means["city"][:, channel]).pvalue > 1e-3

    def test_other_camera_is_colour_and_exposure_alone(self):
        ours, citys = SCENES["other_camera"].camera, SCENES["city"].camera
        for name in ("blur", "noise", "field_of_view", "horizon"):
            assert getattr(ours, name) == getattr(citys, name)

    def test_countryside_differs_in_content(self, scenes):
        assert SCENES["countryside"].camera == SCENES["city"].camera
        ours, citys = shares(scenes["countryside"][1]), shares(scenes["city"][1])
        more = dict(zip(STREETS_CLASSES, ours.mean(axis=0) - citys.mean(axis=0), strict=True))
        assert more["vegetation"] > 0.08
        assert more["sky"] > 0.01
        assert more["building"] < -0.1

    def test_countryside_overlaps_city(self, scenes):
        vegetation = STREETS_CLASSES.index("vegetation")
        ours, citys = (shares(scenes[scene][1])[:, vegetation] for scene in ("countryside", "city"))
        assert (ours < citys.max()).mean() > 0.15

    def test_drives_share_their_light(self):
        level = np.array([[render("city", 1, 10 * d + i)[0].mean() for i in range(3)] for d in range(8)])
        assert level.mean(axis=1).std() > level.std(axis=1).mean() / np.sqrt(3)

    def test_density_median(self):
        density = Density(0.3, 0.9)
        drawn = [density.draw(generator("d", i), generator("f", i)) for i in range(400)]
        assert np.median(drawn) == pytest.approx(0.3, abs=0.05)
        assert 0 < min(drawn) < 0.1
        assert 0.6 < max(drawn) < 1


class TestReader:
    def test_names_and_groups(self, reader):
        samples = reader(count=12).scan()
        assert [sample.sample_id for sample in samples][8:11] == ["drive00_00008", "drive00_00009", "drive01_00010"]
        assert [sample.group for sample in samples][9:11] == ["drive00", "drive01"]
        assert all(sample.image.is_file() and sample.mask.is_file() for sample in samples)
        assert reader(count=12).metadata(samples) == {}

    def test_folders_are_equal(self, reader, tmp_path):
        reader(folder="a", count=2).scan()
        reader(folder="b", count=3).scan()
        a, b = content(tmp_path / "a"), content(tmp_path / "b")
        assert len(a) == 4
        assert {path: b[path] for path in a} == a

    def test_selection(self, ids):
        assert ids(count=12, select=Selection(groups=["drive01"])) == ["drive01_00010", "drive01_00011"]
        assert ids(count=12, select=Selection(names="*_0000[13]")) == ["drive00_00001", "drive00_00003"]
        assert ids(count=12, limit=1) == ["drive00_00000"]

    def test_selection_that_keeps_nothing(self, ids):
        with pytest.raises(DatasetError, match=r"data: no sample has groups \[drive9\]; groups that exist: drive00"):
            ids(select=Selection(groups=["drive9"]))

    def test_masks_in_the_configs_classes(self, reader):
        (sample,) = reader(count=1).scan()
        own = np.asarray(Image.open(sample.mask))
        mask = reader(classes=("wall", "sky", "road")).read_mask(sample.mask)
        assert np.array_equal(mask == 1, own == STREETS_CLASSES.index("sky"))
        assert np.array_equal(mask == 2, own == STREETS_CLASSES.index("road"))
        assert set(np.unique(mask)) == {1, 2, IGNORE}

    @pytest.mark.parametrize(("scene", "hint"), [("citty", "did you mean 'city'"), ("moon", "expected one of: city")])
    def test_unknown_scene(self, reader, scene, hint):
        with pytest.raises(DatasetError, match=hint):
            reader(scene=scene)

    def test_foreign_classes(self, reader):
        with pytest.raises(DatasetError, match="none of the set's classes"):
            reader(classes=("cat", "dog"))


class TestFolder:
    def test_rendered_once(self, ids, rendered_indices):
        assert ids() == ids()
        assert rendered_indices == [0, 1, 2]

    def test_larger_count_adds(self, ids, rendered_indices):
        ids(count=2)
        assert ids(count=4)[-1] == "drive00_00003"
        assert rendered_indices == [0, 1, 2, 3]

    def test_smaller_count_leaves_aside(self, ids, rendered_indices):
        ids(count=3)
        assert len(ids(count=2)) == 2
        assert len(ids(count=3)) == 3
        assert rendered_indices == [0, 1, 2]

    def test_deleted_stays_deleted(self, reader, ids):
        samples = reader().scan()
        samples[1].image.unlink()
        samples[1].mask.unlink()
        assert ids() == ids() == ["drive00_00000", "drive00_00002"]
        assert ids(count=4) == ["drive00_00000", "drive00_00002", "drive00_00003"]

    def test_changed_stays_changed(self, reader):
        path = reader().scan()[0].image
        path.write_bytes(b"mine")
        assert reader().scan()[0].image.read_bytes() == b"mine"

    def test_added_picture_is_listed(self, reader):
        sample = reader().scan()[0]
        for path in (sample.image, sample.mask):
            path.with_name("mine_7.png").write_bytes(path.read_bytes())
        sample.image.with_name("loose.png").write_bytes(sample.image.read_bytes())
        added = {s.sample_id: (s.group, s.mask is not None) for s in reader().scan()[3:]}
        assert added == {"mine_7": ("mine", True), "loose": ("", False)}

    def test_killed_run_resumes(self, ids, rendered_indices, monkeypatch, tmp_path):
        def killed(scene, seed, index):
            if index == 13:
                raise KeyboardInterrupt
            return render(scene, seed, index)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(streets, "render", killed)
            ids(count=15)
        assert len(ids(count=15)) == 15
        assert rendered_indices == [10, 11, 12, 13, 14]
        ids(folder="whole", count=15)
        assert content(tmp_path / "data") == content(tmp_path / "whole")

    def test_killed_write_leaves_no_half_file(self, ids, monkeypatch, tmp_path):
        replace = Path.replace

        def killed(path, target):
            if target.suffix == ".png":
                raise KeyboardInterrupt
            return replace(path, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", killed)
            ids()
        assert not content(tmp_path / "data")
        assert len(ids()) == 3

    @pytest.mark.parametrize("change", [{"scene": "countryside"}, {"seed": 1}])
    def test_another_scene_is_rendered_anew(self, reader, ids, change):
        first = reader().scan()[0].image
        first.with_name("mine_7.png").write_bytes(first.read_bytes())
        before = first.read_bytes()
        assert ids(count=2, **change) == ["drive00_00000", "drive00_00001", "mine_7"]
        assert first.read_bytes() != before

    def test_another_generator_is_rendered_anew(self, ids, rendered_indices, tmp_path):
        ids()
        state = tmp_path / "data" / "scene.json"
        assert json.loads(state.read_text()) == {
            "scene": "city", "seed": 0, "generator": streets.GENERATOR, "rendered": 3,
        }  # fmt: skip
        state.write_text(state.read_text().replace(f'"generator": {streets.GENERATOR}', '"generator": 0'))
        ids()
        assert rendered_indices == [0, 1, 2] * 2

    def test_unreadable_state_is_rendered_anew(self, ids, rendered_indices, tmp_path):
        ids()
        (tmp_path / "data" / "scene.json").write_text('{"scene": 3')
        ids()
        assert rendered_indices == [0, 1, 2] * 2

    def test_everything_deleted(self, reader):
        for sample in reader().scan():
            sample.image.unlink()
        with pytest.raises(DatasetError, match=r"data: no pictures; .* delete scene\.json"):
            reader().scan()

    def test_folder_that_cannot_be_written(self, reader, tmp_path):
        (tmp_path / "data").write_text("a file")
        with pytest.raises(DatasetError, match="can't be written"):
            reader().scan()
