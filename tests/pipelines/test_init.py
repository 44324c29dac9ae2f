"""`domain-gap init`: every layout is recognised, and what is written loads and reads the folders it names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.init import propose
from resources.config import CAMVID11, CITYSCAPES19, GapConfig, load_config
from resources.datasets import open_reader
from resources.datasets.base import IGNORE
from resources.errors import DatasetError

SIZE = (48, 64)


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3))


def ids(*values: int) -> np.ndarray:
    """A mask in which each id has its columns."""
    return np.tile(np.repeat(values, -(-SIZE[1] // len(values)))[: SIZE[1]], (SIZE[0], 1))


def folder(root: Path, *values: int, count: int = 6, stem: str = "drive{}_{:03d}") -> Path:
    for i in range(count):
        name = stem.format(i % 2, i)
        put(root / f"images/{name}.png", picture())
        if values:
            put(root / f"masks/{name}.png", ids(*values))
    return root


def cityscapes(root: Path) -> Path:
    for split, city in (("train", "aachen"), ("val", "bonn"), ("test", "bern")):
        name = f"{split}/{city}/{city}_000000_000019"
        put(root / f"leftImg8bit/{name}_leftImg8bit.png", picture())
        put(root / f"gtFine/{name}_gtFine_labelIds.png", ids(7, 23, 26))
    return root


def kitti(root: Path) -> Path:
    for i in range(8):
        put(root / f"training/image_2/{i:06d}_10.png", picture())
        put(root / f"training/semantic/{i:06d}_10.png", ids(7, 20, 26))
        put(root / f"testing/image_2/{i:06d}_10.png", picture())
    return root


def segnet(root: Path) -> Path:
    for split, drive in (("train", "0006R0"), ("val", "0016E5"), ("test", "Seq05VD")):
        put(root / f"{split}/{drive}_f00001.png", picture())
        put(root / f"{split}annot/{drive}_f00001.png", ids(3, 6, 8, 11))
    return root


def original_camvid(root: Path) -> Path:
    put(root / "701_StillsRaw_full/0006R0_f00001.png", picture())
    mask = np.zeros((*SIZE, 3))
    mask[:, :32] = (0x80, 0x40, 0x80)  # Road
    mask[:, 32:] = (0x40, 0x00, 0x80)  # Car
    put(root / "LabeledApproved_full/0006R0_f00001_L.png", mask)
    return root


@pytest.fixture
def written(tmp_path):
    """Write the config for two folders, load it, and scan both as a run would."""

    def written(source: Path, target: Path) -> tuple[str, GapConfig]:
        text = propose(source, target, tmp_path).text
        path = tmp_path / "gap.yaml"
        path.write_text(text, encoding="utf-8")
        config = load_config(path)
        for dataset in config.datasets:
            assert open_reader(config, dataset).scan()
        return text, config

    return written


def classes_of(config: GapConfig, key: str) -> set[str]:
    """Names of the classes in the first mask of a data set."""
    dataset = config.dataset(key)
    reader = open_reader(config, dataset)
    mask = next(sample.mask for sample in reader.scan() if sample.mask is not None)
    return {config.class_names[i] for i in np.unique(reader.read_mask(mask)) if i != IGNORE}


class TestLayouts:
    def test_cityscapes_with_kitti_needs_no_hand(self, written, tmp_path):
        text, config = written(cityscapes(tmp_path / "cityscapes"), kitti(tmp_path / "kitti"))
        assert config.class_names == CITYSCAPES19
        assert (config.source.name, config.targets[0].name) == ("cityscapes", "kitti")
        assert config.source.reference.splits == ["train"]
        assert config.source.holdout.splits == ["val"]
        assert config.source.select.splits == ["train", "val"], "the test split has no labels"
        assert config.targets[0].select.splits == ["training"]
        assert config.targets[0].group_blocks
        assert classes_of(config, "kitti") == {"road", "traffic sign", "car"}
        assert "root: cityscapes" in text, "a folder beside the config is named relatively"

    @pytest.mark.parametrize("make", [segnet, original_camvid])
    def test_camvid_in_both_forms(self, written, tmp_path, make):
        _, config = written(make(tmp_path / "CamVid"), kitti(tmp_path / "kitti"))
        assert config.class_names == CAMVID11
        assert {"road", "vehicle"} <= classes_of(config, "source")
        assert classes_of(config, "kitti") == {"road", "sign", "vehicle"}, "Cityscapes' ids in CamVid's classes"

    @pytest.mark.parametrize("make", [segnet, original_camvid])
    def test_camvid_under_the_classes_of_cityscapes(self, written, tmp_path, make):
        _, config = written(cityscapes(tmp_path / "cityscapes"), make(tmp_path / "camvid"))
        assert {"road", "car"} <= classes_of(config, "camvid")

    def test_kitti_as_the_source_is_divided_by_blocks(self, written, tmp_path):
        _, config = written(kitti(tmp_path / "kitti"), folder(tmp_path / "ours"))
        assert config.source.reference is None
        assert config.source.group_blocks
        assert config.targets[0].labels is None


class TestFolders:
    def test_placeholders_cover_every_id(self, written, tmp_path):
        text, config = written(folder(tmp_path / "a", 0, 1, 3), folder(tmp_path / "b", 0, 3))
        assert config.class_names == ("class_0", "class_1", "class_2", "class_3")
        assert "Rename" in text
        assert classes_of(config, "b") == {"class_0", "class_3"}

    def test_scattered_ids_get_a_map(self, written, tmp_path):
        _, config = written(folder(tmp_path / "a", 10, 200), folder(tmp_path / "b", 10))
        assert config.source.labels == {10: "class_10", 200: "class_200"}
        assert classes_of(config, "b") == {"class_10"}

    def test_a_mask_of_nothing_and_white_has_two_classes(self, written, tmp_path):
        _, config = written(folder(tmp_path / "a", 0, 255), folder(tmp_path / "b", 0, 255))
        assert len(config.class_names) == 2
        assert len(classes_of(config, "source")) == 2

    def test_colours_get_a_map(self, written, tmp_path):
        a, b = folder(tmp_path / "a"), folder(tmp_path / "b")
        for root in (a, b):
            for image in (root / "images").iterdir():
                put(root / "masks" / image.name, np.stack([ids(0, 128), ids(0, 64), ids(0, 128)], axis=-1))
        _, config = written(a, b)
        assert config.source.labels == config.targets[0].labels == {"#000000": "class_0", "#804080": "class_1"}

    def test_ids_that_the_classes_lack_wait_for_a_name(self, written, tmp_path):
        text, config = written(cityscapes(tmp_path / "cityscapes"), folder(tmp_path / "ours", 3, 40))
        assert config.targets[0].labels == {3: "void", 40: "void"}
        assert "in place of void" in text

    def test_known_layout_under_placeholders_says_what_its_ids_are(self, written, tmp_path):
        text, config = written(folder(tmp_path / "ours", 0, 1), kitti(tmp_path / "kitti"))
        assert config.targets[0].labels[7] == "void"
        assert "7: void    # road" in text

    def test_groups_and_splits_come_from_the_names(self, written, tmp_path):
        source = folder(tmp_path / "a", 0, 1, count=8, stem="train_{}_{:03d}")
        for image in sorted((source / "images").iterdir())[4:]:
            for kind in ("images", "masks"):
                (source / kind / image.name).rename(source / kind / image.name.replace("train", "val"))
        _, config = written(source, folder(tmp_path / "b"))
        assert config.source.reference.splits == ["train"]
        assert config.source.holdout.splits == ["val"]
        assert {sample.group for sample in open_reader(config, config.source).scan()} == {"train_0", "val_1"}

    def test_nameless_numbers_are_kept_together_in_blocks(self, written, tmp_path):
        _, config = written(folder(tmp_path / "a", 0, 1, count=36, stem="{1:06d}"), folder(tmp_path / "b"))
        assert config.source.group is None
        assert config.source.group_blocks == 3

    def test_two_folders_of_one_name_and_odd_names(self, written, tmp_path):
        _, config = written(folder(tmp_path / "1: é #a/data", 0, 1), folder(tmp_path / "2/data"))
        assert [dataset.name for dataset in config.datasets] == ["data", "data_target"]
        _, config = written(tmp_path / "1: é #a/data", folder(tmp_path / "2024"))
        assert config.targets[0].name == "set_2024"


class TestRefusals:
    def test_unknown_layout_says_what_was_looked_for(self, tmp_path):
        (tmp_path / "odd/pictures").mkdir(parents=True)
        with pytest.raises(DatasetError) as caught:
            propose(tmp_path / "odd", tmp_path / "odd", tmp_path)
        text = str(caught.value)
        assert "\n" not in text
        assert all(sign in text for sign in ("leftImg8bit/", "training/image_2/", "trainannot/", "images/", "pictures"))

    def test_missing_folder(self, tmp_path):
        with pytest.raises(DatasetError, match="no such folder"):
            propose(tmp_path / "nowhere", tmp_path, tmp_path)

    def test_photographs_in_place_of_masks(self, tmp_path):
        root = folder(tmp_path / "a")
        for image in (root / "images").iterdir():
            put(root / "masks" / image.name, picture())
        with pytest.raises(DatasetError, match="different colours"):
            propose(root, root, tmp_path)
