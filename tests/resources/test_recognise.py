"""A look at a folder: layouts of known sets and of none, class files, and ids that are named by where they lie."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resources.config import CAMVID11, CITYSCAPES19, DatasetConfig
from resources.datasets.base import IGNORE
from resources.datasets.class_files import class_tables
from resources.datasets.known_labels import KNOWN_TABLES, is_void, nearest_class, usual_names
from resources.datasets.pairs import PairsReader
from resources.datasets.recognise import Code, find_table, look
from resources.errors import DatasetError

SIZE = (40, 64)
RNG = np.random.default_rng(0)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(path)


def mask(path: Path) -> None:
    """Train ids of Cityscapes: sky above, road below, a building and a car between."""
    ids = np.zeros(SIZE, np.uint8)
    ids[:16], ids[16:20, :30], ids[26:30, 10:30] = 10, 2, 13
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def instances(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 30000, SIZE).astype(np.uint16)).save(path)


LAYOUTS = {
    "mapillary": (
        "{split}ing/images/a{i}x.jpg",
        "{split}ing/v1.2/labels/a{i}x.png",
        "{split}ing/v1.2/instances/a{i}x.png",
    ),
    "bdd100k": ("images/10k/{split}/7d{i}fe-b7.jpg", "labels/sem_seg/masks/{split}/7d{i}fe-b7.png", None),
    "bdd100k's older form": ("images/{split}/7d{i}fe.jpg", "labels/{split}/7d{i}fe_train_id.png", None),
    "ade20k": ("images/{split}/ADE_{i:08d}.jpg", "annotations/{split}/ADE_{i:08d}.png", None),
    "pascal": ("JPEGImages/{i:06d}.jpg", "SegmentationClass/{i:06d}.png", None),
    "one folder, two formats": ("{i:06d}.jpg", "{i:06d}.png", None),
    "one folder, two words": ("{i:06d}_img.png", "{i:06d}_mask.png", None),
    "one folder, one word": ("{i:06d}.png", "{i:06d}_L.png", None),
    "one folder a drive": ("{drive}/rgb/{i:04d}.png", "{drive}/sem/{i:04d}.png", "{drive}/depth/{i:04d}.png"),
    "masks in a folder below": ("f{i:05d}.png", "gt/f{i:05d}.png", None),
    "images and masks of other stems": ("images/f{i:05d}.png", "masks/f{i:05d}_mask.png", None),
    "words for names": ("rgb/{word}.png", "lbl/{word}.png", None),
    "acdc": (
        "rgb_anon/fog/{split}/G5/G5_{i:06d}_rgb_anon.png",
        "gt/fog/{split}/G5/G5_{i:06d}_gt_labelTrainIds.png",
        None,
    ),
}
"""Where a picture is, its mask, and another file that looks like neither."""
PATTERNS = {
    "mapillary": ("*/images/*.jpg", "*/v1.2/labels/*.png"),
    "bdd100k": ("images/10k/*.jpg", "labels/sem_seg/masks/*.png"),
    "bdd100k's older form": ("images/*.jpg", "labels/*_train_id.png"),
    "ade20k": ("images/*.jpg", "annotations/*.png"),
    "pascal": ("JPEGImages/*.jpg", "SegmentationClass/*.png"),
    "one folder, two formats": ("*.jpg", "*.png"),
    "one folder, two words": ("*_img.png", "*_mask.png"),
    "one folder, one word": ("*.png", "*_L.png"),
    "one folder a drive": ("*/rgb/*.png", "*/sem/*.png"),
    "masks in a folder below": ("*.png", "gt/*.png"),
    "images and masks of other stems": ("images/*.png", "masks/*_mask.png"),
    "words for names": ("rgb/*.png", "lbl/*.png"),
    "acdc": ("rgb_anon/*_rgb_anon.png", "gt/*_gt_labelTrainIds.png"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_two_files_that_share_a_name_are_paired(name, tmp_path):
    for i in range(8):
        named = {"i": i, "split": "train" if i % 2 else "val", "drive": f"d{i // 4}", "word": "abcdefgh"[i]}
        for at, put in zip(LAYOUTS[name], (picture, mask, instances), strict=True):
            if at is not None:
                put(tmp_path / at.format(**named))
    found = look(tmp_path)
    assert (found.layout, found.images, found.masks) == ("pairs", *PATTERNS[name])
    assert len(found.samples) == found.labelled == 8
    assert "train ids of Cityscapes" in found.origin


class TestLook:
    def test_numbers_that_start_anew_in_many_folders(self, tmp_path):
        for drive in range(30):
            for i in range(2):
                picture(tmp_path / f"d{drive}/rgb/{i:04d}.png")
                mask(tmp_path / f"d{drive}/sem/{i:04d}.png")
        found = look(tmp_path)
        assert (found.images, found.masks, found.labelled) == ("*/rgb/*.png", "*/sem/*.png", 60)

    def test_ids_are_taken_before_colours(self, tmp_path):
        for i in range(4):
            picture(tmp_path / f"img/{i:04d}.png")
            mask(tmp_path / f"ids/{i:04d}.png")
            shown = Image.open(tmp_path / f"ids/{i:04d}.png").point(lambda value: 20 * value).convert("RGB")
            (tmp_path / "color").mkdir(exist_ok=True)
            shown.save(tmp_path / f"color/{i:04d}.png")
        assert look(tmp_path).masks == "ids/*.png"

    def test_pictures_alone(self, tmp_path):
        for i in range(4):
            picture(tmp_path / f"2024/cam{i % 2}/{i:04d}.png")
        found = look(tmp_path)
        assert (found.images, found.masks, found.labelled) == ("2024/*.png", None, 0)
        assert not found.codes

    def test_nothing(self, tmp_path):
        with pytest.raises(DatasetError, match="no pictures in it; looked for leftImg8bit"):
            look(tmp_path)


class TestTables:
    @staticmethod
    def codes(**heights: float) -> dict:
        return {int(own[1:]): Code(0.25, height, 3) for own, height in heights.items()}

    def test_the_same_ids_are_named_by_where_they_lie(self):
        train, camvid = (find_table(self.codes(_0=low, _10=high), {}) for low, high in ((0.8, 0.2), (0.2, 0.8)))
        assert train[0][10] == "sky" and "train ids" in train[1]
        assert camvid[0].get(0) == "sky" or camvid == ({}, "")

    def test_no_table_is_believed_against_the_picture_or_without_road_and_sky(self):
        assert find_table(self.codes(_0=0.5, _10=0.5), {}) == ({}, "")
        assert find_table(self.codes(_2=0.3, _13=0.6), {}) == ({}, "")
        assert find_table({}, {}) == ({}, "")

    def test_a_class_file_is_believed_anyway(self):
        table = {0: "hut", 1: "yurt"}
        assert find_table(self.codes(_0=0.5, _1=0.5, _255=0.5), {"classes.txt": table}) == (table, "classes.txt")

    def test_published_names_find_their_classes_in_both_lists(self):
        for title, table in KNOWN_TABLES.items():
            for names in (CITYSCAPES19, CAMVID11):
                found = {nearest_class(name, names) for name in table.values() if name and not is_void(name)}
                assert {"road", "sky", "building", "vegetation", "person"} <= found, title


CLASS_FILES = {
    "classes.txt": ("road\nsky\n", {"classes.txt (ids)": {0: "road", 1: "sky"}}),
    "label_names.txt": ("7 road\n23: sky\n", {"label_names.txt (ids)": {7: "road", 23: "sky"}}),
    "label_colors.txt": ("64 128 64\tAnimal\n192 0 128\tArchway\n",
                         {"label_colors.txt (colours)": {"#408040": "Animal", "#C00080": "Archway"}}),
    "class_dict.csv": ("name,r,g,b\nroad,1,2,3\nsky,4,5,6\n",
                       {"class_dict.csv (colours)": {"#010203": "road", "#040506": "sky"},
                        "class_dict.csv (ids)": {0: "road", 1: "sky"}}),
    "config.json": ('{"labels": [{"readable": "Road", "color": [1, 2, 3]}, {"name": "Sky", "color": [4, 5, 6]}]}',
                    {"config.json (colours)": {"#010203": "Road", "#040506": "Sky"},
                     "config.json (ids)": {0: "Road", 1: "Sky"}}),
    "labels.json": ('{"3": "road", "4": "sky"}', {"labels.json (ids)": {3: "road", 4: "sky"}}),
    "palette.json": ('{"road": [1, 2, 3], "sky": "#040506"}',
                     {"palette.json (colours)": {"#010203": "road", "#040506": "sky"}}),
    "label_readme.txt": ("These are 3 labels that\n(c) nobody\n", {}),
    "labels.csv": ("frame,speed\n1,2\n3,4\n", {}),
    "classes.json": ("{broken", {}),
    "notes.txt": ("road\nsky\n", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASS_FILES)
def test_class_files(name, tmp_path):
    text, expected = CLASS_FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert class_tables(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("Pavement", CITYSCAPES19, "sidewalk"), ("SUVPickupTruck", CAMVID11, "vehicle"), ("truck", CAMVID11, "vehicle"),
        ("car, auto", CITYSCAPES19, "car"),
        ("Road sign", CITYSCAPES19, "traffic sign"), ("utility-pole", CAMVID11, "pole"),
        ("Lane Marking - General", CITYSCAPES19, "road"),
        ("rider", CAMVID11, "cyclist"),
        ("cyclist", CITYSCAPES19, "rider"), ("wall", CAMVID11, "fence"), ("sign", CITYSCAPES19, "traffic sign"),
        ("Street", ("Roadway", "heaven"), "Roadway"), ("dynamic", CITYSCAPES19, None), ("piano", CITYSCAPES19, None),
        ("caravan", CITYSCAPES19, None),
    ],
)  # fmt: skip
def test_classes_by_name_synonym_and_what_includes_them(name, names, found):
    assert nearest_class(name, names) == found


def test_usual_names_stay_distinct():
    assert usual_names(["Street", "Tree", "Road sign", "hut"]) == ["road", "vegetation", "traffic sign", "hut"]
    assert usual_names(["tree", "plant"]) == ["tree", "plant"]


class TestPairsReader:
    @staticmethod
    def reader(root: Path, **keys) -> PairsReader:
        return PairsReader(DatasetConfig(name="ours", reader="pairs", root=root, **keys), ("road", "sky"))

    def test_names_masks_and_order(self, tmp_path):
        for name in ("b/x_1", "a/x_2"):
            picture(tmp_path / f"{name}.JPG")
        Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "a/x_2_mask.png")
        samples = self.reader(tmp_path, images="*.jpg", masks="*_mask.png", group="^(.+)/").scan()
        assert [(s.sample_id, s.group, s.mask is not None) for s in samples] == [
            ("a/x_2", "a", True),
            ("b/x_1", "b", False),
        ]
        assert self.reader(tmp_path, images="*.jpg").read_mask(samples[0].mask).tolist() == [[0, 1, IGNORE]]

    def test_what_fits_both_patterns_is_of_the_longer_one(self, tmp_path):
        for name in ("1", "1_gt"):
            mask(tmp_path / f"{name}.png")
        samples = self.reader(tmp_path, images="*", masks="*_gt").scan()
        assert [(s.sample_id, s.image.name, s.mask.name) for s in samples] == [("1", "1.png", "1_gt.png")]

    def test_refusals(self, tmp_path):
        for path in ("rgb/1.png", "gt/2.png"):
            mask(tmp_path / path)
        with pytest.raises(
            DatasetError, match=r"no picture is at 'images': 'img/\*'; there are 2 pictures, such as gt/2.png"
        ):
            self.reader(tmp_path, images="img/*").scan()
        with pytest.raises(DatasetError, match=r"no mask at 'masks'.* belongs to a picture"):
            self.reader(tmp_path, images="rgb/*", masks="gt/*").scan()
        picture(tmp_path / "rgb/1.jpg")
        with pytest.raises(DatasetError, match="two files of one name"):
            self.reader(tmp_path, images="rgb/*").scan()

    @pytest.mark.parametrize("keys", [{}, {"images": "rgb"}, {"images": "*/*", "masks": "gt/*"}, {"masks": "*"}])
    def test_patterns_are_checked(self, tmp_path, keys):
        with pytest.raises(ValueError, match="reader 'pairs' needs 'images'"):
            self.reader(tmp_path, **keys)

    def test_patterns_of_another_reader_are_refused_and_leave_its_version_alone(self, tmp_path):
        plain = DatasetConfig(name="ours", reader="folder", root=tmp_path)
        assert not {"images", "masks", "root", "metadata"} & plain.described().keys()
        with pytest.raises(ValueError, match="belong to reader 'pairs' alone"):
            DatasetConfig(name="ours", reader="folder", root=tmp_path, images="*")
