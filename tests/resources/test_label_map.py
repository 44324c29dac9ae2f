"""Label maps: what a mask file becomes, and what is said where it can't become anything."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from resources.config import CAMVID11, CITYSCAPES19, DatasetConfig
from resources.datasets.base import IGNORE
from resources.datasets.camvid import COLOURS, SEGNET_IDS
from resources.datasets.cityscapes import LABEL_IDS
from resources.datasets.label_map import LabelMap
from resources.errors import DatasetError, UnreadableSample

CLASSES = ("road", "sky", "person")

names_or_void = st.sampled_from([*CLASSES, "void", "unlabeled"])


def index(name):
    return CLASSES.index(name) if name in CLASSES else IGNORE


@settings(max_examples=60, deadline=None)
@given(
    table=st.dictionaries(st.integers(0, 300), names_or_void, min_size=1, max_size=30),
    ids=arrays(np.uint16, (7, 9), elements=st.integers(0, 320)),
)
def test_ids_map_as_a_dictionary_per_pixel_does(table, ids):
    mapped = LabelMap.from_config(table, CLASSES).apply(ids)
    expected = [[index(table.get(int(value), "void")) for value in row] for row in ids]
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    table=st.dictionaries(st.integers(0, 2**24 - 1), names_or_void, min_size=1, max_size=30),
    picks=arrays(np.int64, (5, 8), elements=st.integers(0, 29)),
    strays=arrays(np.uint8, (5, 8, 3)),
    stray=arrays(np.bool_, (5, 8)),
)
def test_colours_map_as_a_dictionary_per_pixel_does(table, picks, strays, stray):
    listed = np.array(sorted(table))[picks % len(table)]
    pixels = np.stack([listed >> 16, (listed >> 8) & 255, listed & 255], axis=-1).astype(np.uint8)
    pixels[stray] = strays[stray]
    mapped = LabelMap.from_config({f"#{colour:06x}": name for colour, name in table.items()}, CLASSES).apply(pixels)
    expected = [[index(table.get(int(r) << 16 | int(g) << 8 | int(b), "void")) for r, g, b in row] for row in pixels]
    assert mapped.tolist() == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, ">u2"])
def test_every_integer_type_maps_alike(dtype):
    label_map = LabelMap.from_table({0: "road", 7: "sky", -1: None}, CLASSES)
    assert label_map.apply(np.array([[0, 7, 255]], dtype=np.int64).astype(dtype)).tolist() == [[0, 1, IGNORE]]


def test_negative_pixels_are_unknown_not_wrapped():
    with pytest.raises(UnreadableSample, match=r"unknown label ids -1 \(1 pixels\)"):
        LabelMap.from_table({0: "road", 65535: "sky"}, CLASSES).apply(np.array([[0, -1]], dtype=np.int16))


def test_unknown_ids_are_named_with_their_pixels():
    ids = np.array([[0, 40, 40], [40, 12, 0]], dtype=np.uint8)
    with pytest.raises(UnreadableSample, match=r"unknown label ids 40 \(3 pixels\), 12 \(1 pixels\); 'labels'"):
        LabelMap.from_table({0: "road"}, CLASSES).apply(ids)


def test_many_unknown_ids_are_counted():
    with pytest.raises(UnreadableSample, match=r"\), 5 \(1 pixels\) and 15 more"):
        LabelMap.from_table({0: "road"}, CLASSES).apply(np.arange(21, dtype=np.uint8)[None])


def test_unknown_colours_are_named_as_colours():
    pixels = np.full((2, 2, 3), (1, 2, 255), dtype=np.uint8)
    with pytest.raises(UnreadableSample, match=r"unknown label colours #0102FF \(4 pixels\)"):
        LabelMap.from_table({"#000000": "road"}, CLASSES).apply(pixels)


def test_names_of_a_table_that_the_config_lacks_are_ignored():
    label_map = LabelMap.from_table({0: "road", 1: "caravan", 2: None, 3: "void"}, CLASSES)
    assert label_map.apply(np.array([[0, 1, 2, 3]], dtype=np.uint8)).tolist() == [[0, IGNORE, IGNORE, IGNORE]]


def test_a_table_without_a_common_name_is_refused_naming_both():
    with pytest.raises(DatasetError, match="the set has car, tree; the config has road, sky, person; give 'labels'"):
        LabelMap.from_table({0: "car", 1: "tree", 2: "void"}, CLASSES)


def test_void_is_ignored_even_where_the_config_has_such_a_class():
    label_map = LabelMap.from_table({0: "road", 1: "void"}, ("road", "void"))
    assert label_map.apply(np.array([[0, 1]], dtype=np.uint8)).tolist() == [[0, IGNORE]]


def test_labels_of_the_config_replace_the_readers_table(tmp_path):
    dataset = DatasetConfig(name="a", reader="kitti", root=tmp_path, labels={50: "sky"})
    label_map = LabelMap.for_dataset(dataset, LABEL_IDS, CLASSES)
    assert label_map.apply(np.array([[50, 7]], dtype=np.uint8)).tolist() == [[1, IGNORE]]


def test_cityscapes_label_ids_become_train_ids():
    train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
                 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    assert sorted(LABEL_IDS) == list(range(-1, 34))
    stored = np.array([*range(34), 255], dtype=np.uint8)
    mapped = LabelMap.from_table(LABEL_IDS, CITYSCAPES19).apply(stored[None])[0]
    assert mapped.tolist() == [train_ids.get(own, IGNORE) for own in stored.tolist()]


def test_segnet_ids_are_camvid11_with_void():
    mapped = LabelMap.from_table(SEGNET_IDS, CAMVID11).apply(np.arange(12, dtype=np.uint8)[None])
    assert mapped.tolist() == [[*range(11), IGNORE]]


def test_camvid_has_32_colours_for_every_class():
    assert len(COLOURS) == 32
    assert set(COLOURS.values()) == {*CAMVID11, "void"}


class TestMaskFiles:
    IDS = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    EXPECTED = ((0, 1), (2, IGNORE))

    @pytest.fixture
    def label_map(self):
        return LabelMap.from_table({0: "road", 1: "sky", 2: "person", 255: None}, CLASSES)

    def check(self, label_map: LabelMap, path: Path):
        assert label_map.read(path).tolist() == [list(row) for row in self.EXPECTED]

    def test_grey(self, label_map, tmp_path):
        Image.fromarray(self.IDS).save(tmp_path / "m.png")
        self.check(label_map, tmp_path / "m.png")

    def test_palette_is_read_by_index(self, label_map, tmp_path):
        mask = Image.fromarray(self.IDS).convert("P")
        mask.putdata(self.IDS.ravel().tolist())
        mask.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
        mask.save(tmp_path / "m.png")
        assert Image.open(tmp_path / "m.png").mode == "P"
        self.check(label_map, tmp_path / "m.png")

    def test_16_bit(self, tmp_path):
        Image.fromarray(np.array([[0, 1000], [65535, 3]], dtype=np.uint16)).save(tmp_path / "m.png")
        label_map = LabelMap.from_table({0: "road", 1000: "sky", 65535: "void", 3: "person"}, CLASSES)
        assert label_map.read(tmp_path / "m.png").tolist() == [[0, 1], [IGNORE, 2]]

    def test_one_bit_is_0_and_1(self, label_map, tmp_path):
        Image.fromarray(np.array([[False, True]])).save(tmp_path / "m.png")
        assert label_map.read(tmp_path / "m.png").tolist() == [[0, 1]]

    def test_grey_with_alpha(self, label_map, tmp_path):
        Image.fromarray(np.stack([self.IDS, np.full_like(self.IDS, 9)], axis=-1), mode="LA").save(tmp_path / "m.png")
        self.check(label_map, tmp_path / "m.png")

    def test_unknown_id_names_the_file(self, label_map, tmp_path):
        Image.fromarray(self.IDS + 5).save(tmp_path / "m.png")
        with pytest.raises(UnreadableSample, match=r"^m\.png: unknown label ids"):
            label_map.read(tmp_path / "m.png")

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_colours_for_an_id_map_are_refused(self, label_map, tmp_path, mode):
        Image.new(mode, (2, 2)).save(tmp_path / "m.png")
        with pytest.raises(UnreadableSample, match=rf"^m\.png: a colour mask \(mode {mode}\) where ids are expected"):
            label_map.read(tmp_path / "m.png")

    @pytest.mark.parametrize("mode", ["L", "I;16", "1"])
    def test_ids_for_a_colour_map_are_refused(self, tmp_path, mode):
        Image.new(mode, (2, 2)).save(tmp_path / "m.png")
        with pytest.raises(UnreadableSample, match=r"a mask of ids .* where colours are expected"):
            LabelMap.from_config({"#000000": "road"}, CLASSES).read(tmp_path / "m.png")

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_colour_masks_in_any_mode(self, tmp_path, mode):
        pixels = np.array([[(0, 0, 0), (128, 64, 128)]], dtype=np.uint8)
        mask = Image.fromarray(pixels)
        (mask.quantize() if mode == "P" else mask.convert(mode)).save(tmp_path / "m.png")
        label_map = LabelMap.from_table({"#000000": "void", "#804080": "road"}, CLASSES)
        assert label_map.read(tmp_path / "m.png").tolist() == [[IGNORE, 0]]

    def test_truncated(self, label_map, tmp_path):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "whole.png")
        (tmp_path / "m.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
        with pytest.raises(UnreadableSample, match=r"^m\.png: truncated or corrupt"):
            label_map.read(tmp_path / "m.png")
