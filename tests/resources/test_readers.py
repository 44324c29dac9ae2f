"""Readers on the layouts that the data sets really have, pictures in every state, selection, and metadata."""

import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resources.config import CAMVID11, CITYSCAPES19, DatasetConfig, GapConfig, Selection, load_config
from resources.datasets import open_reader
from resources.datasets.base import IGNORE, SampleFile, apply_selection, read_image
from resources.datasets.camvid import CamvidReader
from resources.datasets.cityscapes import CityscapesReader
from resources.datasets.folder import FolderReader
from resources.datasets.kitti import KittiReader
from resources.datasets.layout import find_files, group_blocks
from resources.datasets.metadata import read_metadata
from resources.errors import DatasetError, UnreadableSample

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_real_pictures = pytest.mark.skipif(not SHARED.exists(), reason="the shared pictures are not here")

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def put(path: Path, pixels=PICTURE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def dataset(reader: str, root: Path, **options) -> DatasetConfig:
    return DatasetConfig(name="ours", reader=reader, root=root, **options)


def ids(samples):
    return [sample.sample_id for sample in samples]


class TestSelection:
    SAMPLES = tuple(
        SampleFile(f"{split}/{group}_{i}", Path("x"), None, split, group)
        for split in ("val", "train")
        for group in ("b", "a")
        for i in range(2)
    )

    def select(self, **conditions):
        return ids(apply_selection(list(self.SAMPLES), Selection(**conditions), None))

    def test_all_sorted_by_name(self):
        every = sorted(sample.sample_id for sample in self.SAMPLES)
        assert self.select() == ids(apply_selection(list(self.SAMPLES), None, None)) == every

    def test_conditions_hold_at_once(self):
        assert self.select(splits=["train"], groups=["a", "c"]) == ["train/a_0", "train/a_1"]

    def test_names_as_list_match_id_or_last_part(self):
        assert self.select(names=["train/a_0", "b_1"]) == ["train/a_0", "train/b_1", "val/b_1"]

    def test_names_as_glob_match_id_or_last_part(self):
        assert self.select(names="train/*_1") == ["train/a_1", "train/b_1"]
        assert self.select(names="a_*") == ["train/a_0", "train/a_1", "val/a_0", "val/a_1"]

    def test_names_in_a_list_are_literal(self):
        samples = [SampleFile(name, Path("x"), None, "", "") for name in ("a[1]", "a1")]
        assert ids(apply_selection(samples, Selection(names=["a[1]"]), None)) == ["a[1]"]

    def test_the_smaller_limit_counts(self):
        val = Selection(splits=["val"], limit=2)
        assert ids(apply_selection(list(self.SAMPLES), val, 3)) == ["val/a_0", "val/a_1"]
        assert ids(apply_selection(list(self.SAMPLES), val, 1)) == ["val/a_0"]
        assert ids(apply_selection(list(self.SAMPLES), None, 1)) == ["train/a_0"]

    @pytest.mark.parametrize(
        ("conditions", "message"),
        [
            ({"splits": ["vall"]}, r"no sample has splits \[vall\]; splits that exist: train, val"),
            ({"groups": ["c", "d"]}, r"no sample has groups \[c, d\]; groups that exist: a, b"),
            ({"names": "z*"}, r"no sample has names \[z\*\]; names that exist: train/a_0, train/a_1"),
            ({"names": ["z"]}, r"no sample has names \[z\]; names that exist: train/a_0"),
            ({"splits": []}, r"no sample has splits \[\]; splits that exist: train, val"),
        ],
    )
    def test_nothing_left(self, conditions, message):
        with pytest.raises(DatasetError, match=message):
            self.select(**conditions)

    def test_nothing_left_in_a_set_without_groups(self):
        with pytest.raises(DatasetError, match="groups that exist: none"):
            apply_selection([SampleFile("a", Path("x"), None, "", "")], Selection(groups=["a"]), None)

    def test_long_lists_of_values_are_cut(self):
        samples = [SampleFile(f"{i:03d}", Path("x"), None, "", f"g{i:03d}") for i in range(50)]
        with pytest.raises(DatasetError, match="g019 and 30 more"):
            apply_selection(samples, Selection(groups=["g"]), None)


class TestPictures:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
    def test_lossless_formats_come_as_they_are(self, tmp_path, suffix):
        read = read_image(put(tmp_path / f"a.{suffix}"))
        assert read.dtype == np.uint8
        assert np.array_equal(read, PICTURE)
        assert read.flags.writeable

    @pytest.mark.parametrize("suffix", ["jpg", "webp"])
    def test_lossy_formats(self, tmp_path, suffix):
        Image.new("RGB", (16, 12), (200, 30, 60)).save(tmp_path / f"a.{suffix}", quality=95)
        read = read_image(tmp_path / f"a.{suffix}")
        assert read.shape == (12, 16, 3)
        assert np.abs(read.astype(int) - (200, 30, 60)).max() < 6

    def test_grey_is_repeated(self, tmp_path):
        read = read_image(put(tmp_path / "a.png", PICTURE[..., 0]))
        assert np.array_equal(read, np.repeat(PICTURE[..., :1], 3, axis=2))

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bit_grey_is_scaled(self, tmp_path, suffix):
        deep = np.array([[0, 255, 256, 0x8000, 65535]], dtype=np.uint16)
        Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
        assert read_image(tmp_path / f"a.{suffix}")[..., 1].tolist() == [[0, 0, 1, 128, 255]]

    def test_16_bit_colour_is_scaled(self, tmp_path):
        deep = np.array([[[0, 0x8000, 0xFFFF], [0x01FF, 0x1000, 0x00FF]]], dtype=">u2")
        write_png(tmp_path / "a.png", size=(2, 1), depth=16, colour=2, rows=b"\0" + deep.tobytes())
        assert read_image(tmp_path / "a.png").tolist() == [[[0, 128, 255], [1, 16, 0]]]

    def test_32_bit_and_float_are_refused(self, tmp_path):
        Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(UnreadableSample, match=r"a\.tif: 32-bit pixels, expected 8 or 16 bits"):
            read_image(tmp_path / "a.tif")
        Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(UnreadableSample, match=r"b\.tif: floating-point pixels"):
            read_image(tmp_path / "b.tif")

    def test_palette(self, tmp_path):
        flat = np.repeat(np.array([[[10, 20, 30]], [[200, 100, 50]]], dtype=np.uint8), 5, axis=1)
        Image.fromarray(flat).quantize(2).save(tmp_path / "a.png")
        assert np.array_equal(read_image(tmp_path / "a.png"), flat)

    @pytest.mark.filterwarnings("error")
    def test_transparent_palette_keeps_its_colours(self, tmp_path):
        flat = np.repeat(np.array([[[10, 20, 30]], [[200, 100, 50]]], dtype=np.uint8), 5, axis=1)
        Image.fromarray(flat).quantize(2).save(tmp_path / "a.png", transparency=b"\0\x80")
        assert np.array_equal(read_image(tmp_path / "a.png"), flat)

    def test_alpha_is_dropped(self, tmp_path):
        alpha = np.random.default_rng(1).integers(0, 256, (12, 16, 1), dtype=np.uint8)
        put(tmp_path / "a.png", np.concatenate([PICTURE, alpha], axis=2))
        assert np.array_equal(read_image(tmp_path / "a.png"), PICTURE)

    def test_grey_with_alpha(self, tmp_path):
        put(tmp_path / "a.png", PICTURE[..., :2])
        assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(PICTURE[..., :1], 3, axis=2))

    @pytest.mark.parametrize("suffix", ["jpg", "tif"])
    def test_cmyk(self, tmp_path, suffix):
        Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / f"a.{suffix}")
        assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - (200, 30, 60)).max() < 6

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_exif_orientation_is_applied(self, tmp_path, suffix):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright: rotate by 90° clockwise
        Image.fromarray(PICTURE).save(tmp_path / f"a.{suffix}", exif=exif)
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), np.rot90(PICTURE, -1))

    def test_a_cameras_preview_frame_is_left_aside(self, tmp_path):
        preview = Image.new("RGB", (4, 4))
        Image.new("RGB", (16, 12), "red").save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
        assert read_image(tmp_path / "a.jpg").shape == (12, 16, 3)

    @pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
    def test_animated(self, tmp_path, suffix):
        first = Image.fromarray(PICTURE)
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[first.rotate(90)])
        with pytest.raises(UnreadableSample, match=rf"a\.{suffix}: animated or multi-page \(2 frames\)"):
            read_image(tmp_path / f"a.{suffix}")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_truncated(self, tmp_path, suffix, share):
        noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = put(tmp_path / f"whole.{suffix}", noise).read_bytes()
        (tmp_path / f"a.{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UnreadableSample, match=rf"^a\.{suffix}: truncated or corrupt: .+") as caught:
            read_image(tmp_path / f"a.{suffix}")
        assert "\n" not in str(caught.value)

    def test_a_flipped_byte_in_a_png(self, tmp_path):
        noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data = bytearray(put(tmp_path / "a.png", noise).read_bytes())
        data[len(data) // 2] ^= 0x55
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(UnreadableSample, match=r"a\.png: truncated or corrupt"):
            read_image(tmp_path / "a.png")

    def test_no_picture_at_all(self, tmp_path):
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("<html>not found</html>")
        for name, reason in {"empty": "empty file", "text": "not a picture", "none": "no such file"}.items():
            with pytest.raises(UnreadableSample, match=rf"{name}\.png: {reason}"):
                read_image(tmp_path / f"{name}.png")

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("side", [11_000, 40_000])
    def test_decompression_bomb(self, tmp_path, side):
        write_png(tmp_path / "a.png", size=(side, side), depth=8, colour=2, rows=b"\0" * 1000)
        with pytest.raises(UnreadableSample, match=r"a\.png: a decompression bomb"):
            read_image(tmp_path / "a.png")


def write_png(path, *, size, depth, colour, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class TestFindFiles:
    def test_recursive_with_hidden_ones_and_others_skipped(self, tmp_path):
        for name in ("a.png", "deep/er/b.JPG", "c.txt", ".d.png", ".hidden/e.png", "deep/Thumbs.db"):
            touch(tmp_path / name)
        assert list(find_files(tmp_path, ".png", ".jpg")) == ["a", "deep/er/b"]

    def test_links_are_followed_but_not_in_circles(self, tmp_path):
        touch(tmp_path / "real" / "a.png")
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "linked").symlink_to(tmp_path / "real")
        (tmp_path / "images" / "again").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "loop").symlink_to(tmp_path / "images")
        (tmp_path / "images" / "self").symlink_to(tmp_path / "images")
        (tmp_path / "images" / "broken.png").symlink_to(tmp_path / "nowhere")
        (tmp_path / "images" / "knot.png").symlink_to("knot.png")
        assert list(find_files(tmp_path / "images", ".png")) == ["again/a", "linked/a"]

    def test_two_files_of_one_stem(self, tmp_path):
        touch(tmp_path / "a.png")
        touch(tmp_path / "a.jpg")
        with pytest.raises(DatasetError, match=r"two files of one stem: a\.jpg and a\.png"):
            find_files(tmp_path, ".png", ".jpg")

    def test_no_folder(self, tmp_path):
        assert find_files(tmp_path / "none", ".png") == {}

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_no_access(self, tmp_path):
        touch(tmp_path / "locked" / "a.png").parent.chmod(0)
        with pytest.raises(DatasetError, match="can't be listed: Permission denied"):
            find_files(tmp_path, ".png")

    def test_ten_thousand_files_are_paired_unopened(self, tmp_path):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
            for i in range(10_000):
                os.close(os.open(tmp_path / folder / f"{i:05d}.png", os.O_CREAT))
        samples = FolderReader(dataset("folder", tmp_path), CAMVID11).scan()
        assert len(samples) == 10_000
        assert samples[-1] == SampleFile("09999", tmp_path / "images/09999.png", tmp_path / "masks/09999.png", "", "")


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path):
        for stem in ("train_drive1_000", "train_drive1_001", "val_drive2_000"):
            put(tmp_path / "images" / f"{stem}.jpg")
        put(tmp_path / "masks" / "train_drive1_000.png", np.full((12, 16), 3))
        put(tmp_path / "masks" / "val_drive2_000.png", np.full((12, 16), 255))
        return tmp_path

    def scan(self, root, **options):
        return FolderReader(dataset("folder", root, **options), CAMVID11).scan()

    def test_pairs_by_stem_with_masks_where_there_are_any(self, root):
        samples = self.scan(root)
        assert ids(samples) == ["train_drive1_000", "train_drive1_001", "val_drive2_000"]
        assert [sample.mask and sample.mask.name for sample in samples] == [
            "train_drive1_000.png",
            None,
            "val_drive2_000.png",
        ]
        assert {(sample.split, sample.group) for sample in samples} == {("", "")}

    def test_patterns(self, root):
        samples = self.scan(root, split="^([a-z]+)_", group="_(drive[0-9]+)_")
        assert [(s.split, s.group) for s in samples] == [("train", "drive1"), ("train", "drive1"), ("val", "drive2")]

    def test_a_pattern_that_matches_some(self, root):
        assert [s.group for s in self.scan(root, group="_(drive1)_")] == ["drive1", "drive1", ""]

    def test_a_pattern_that_matches_none(self, root):
        with pytest.raises(DatasetError, match="ours: group: '_\\(tour\\)_' matches none of 3 names, such as 'train_"):
            self.scan(root, group="_(tour)_")

    def test_selection_by_patterns(self, root):
        assert ids(self.scan(root, split="^([a-z]+)_", select={"splits": ["val"]})) == ["val_drive2_000"]
        with pytest.raises(DatasetError, match=r"ours: no sample has splits \[test\]; splits that exist: train, val"):
            self.scan(root, split="^([a-z]+)_", select={"splits": ["test"]})

    def test_limit(self, root):
        assert ids(self.scan(root, limit=1)) == ["train_drive1_000"]

    def test_without_masks(self, tmp_path):
        put(tmp_path / "images" / "a.png")
        assert [sample.mask for sample in self.scan(tmp_path)] == [None]

    def test_folders_within(self, tmp_path):
        for stem in ("north/000", "north/001", "south/000"):
            touch(tmp_path / "images" / f"{stem}.webp")
            touch(tmp_path / "masks" / f"{stem}.png")
        samples = self.scan(tmp_path, group="^([a-z]+)/")
        assert ids(samples) == ["north/000", "north/001", "south/000"]
        assert [sample.group for sample in samples] == ["north", "north", "south"]
        assert samples[2].mask == tmp_path / "masks/south/000.png"

    def test_a_mask_without_picture_is_left_aside(self, root):
        touch(root / "masks" / "stray.png")
        assert len(self.scan(root)) == 3

    def test_masks_that_fit_no_picture(self, tmp_path):
        touch(tmp_path / "images" / "a.jpg")
        touch(tmp_path / "masks" / "a_mask.png")
        with pytest.raises(DatasetError, match=r"none of 1 masks has the name of a picture; .* 'a_mask' .* 'a'"):
            self.scan(tmp_path)

    def test_two_pictures_of_one_stem(self, root):
        touch(root / "images" / "train_drive1_000.png")
        with pytest.raises(DatasetError, match="two files of one stem"):
            self.scan(root)

    @pytest.mark.parametrize("made", ["", "images", "pictures/a.png"])
    def test_no_pictures(self, tmp_path, made):
        (tmp_path / made).mkdir(parents=True, exist_ok=True)
        with pytest.raises(DatasetError, match=rf"ours: {tmp_path}: no pictures; expected images/ with \.png"):
            self.scan(tmp_path)

    def test_ids_are_the_classes_in_order(self, root):
        reader = FolderReader(dataset("folder", root), CAMVID11)
        assert (reader.read_mask(root / "masks" / "train_drive1_000.png") == CAMVID11.index("road")).all()
        assert (reader.read_mask(root / "masks" / "val_drive2_000.png") == IGNORE).all()
        with pytest.raises(UnreadableSample, match=r"m\.png: unknown label ids 11 \(192 pixels\)"):
            reader.read_mask(put(root / "m.png", np.full((12, 16), 11)))

    def test_colour_masks(self, root):
        reader = FolderReader(dataset("folder", root, labels={"#FF0000": "sky", "#00ff00": "fence"}), CAMVID11)
        mask = put(root / "m.png", [[(255, 0, 0), (0, 255, 0), (9, 9, 9)]])
        assert reader.read_mask(mask).tolist() == [[0, CAMVID11.index("fence"), IGNORE]]


def test_blocks_are_of_consecutive_names_and_never_across_splits():
    samples = [SampleFile(f"{i:02d}", Path("x"), None, "b" if i % 2 else "a", "own") for i in range(10)]
    blocked = group_blocks(samples[::-1], 3)
    assert ids(blocked) == ids(samples)
    assert [sample.group[-1] for sample in blocked] == list("0202021313")
    assert blocked[0].group == "block000"


def test_blocks_stay_when_the_selection_changes(tmp_path):
    for i in range(8):
        touch(tmp_path / "images" / f"{i}.png")
    few = FolderReader(dataset("folder", tmp_path, group_blocks=3, select={"names": ["4", "7"]}), CAMVID11).scan()
    assert [(sample.sample_id, sample.group) for sample in few] == [("4", "block001"), ("7", "block002")]


class TestCityscapes:
    FRAMES = (
        ("train", "aachen", "000000_000019"),
        ("train", "zurich", "000001_000019"),
        ("val", "frankfurt", "000000_000294"),
        ("test", "berlin", "000000_000019"),
    )

    @pytest.fixture
    def root(self, tmp_path):
        for split, city, frame in self.FRAMES:
            base = f"{split}/{city}/{city}_{frame}"
            put(tmp_path / "leftImg8bit" / f"{base}_leftImg8bit.png")
            put(tmp_path / "gtFine" / f"{base}_gtFine_labelIds.png", [[7, 23, 3]])
            for other in ("color", "instanceIds", "labelTrainIds"):
                touch(tmp_path / "gtFine" / f"{base}_gtFine_{other}.png")
            touch(tmp_path / "gtFine" / f"{base}_gtFine_polygons.json")
        return tmp_path

    def reader(self, root, class_names=CITYSCAPES19, **options):
        return CityscapesReader(dataset("cityscapes", root, **options), class_names)

    def test_layout(self, root):
        samples = self.reader(root).scan()
        assert ids(samples) == sorted(f"{split}/{city}/{city}_{frame}" for split, city, frame in self.FRAMES)
        assert [(s.split, s.group) for s in samples] == [
            ("test", "berlin"),
            ("train", "aachen"),
            ("train", "zurich"),
            ("val", "frankfurt"),
        ]
        assert samples[0].mask is None
        assert samples[1].mask == root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
        assert self.reader(root).read_mask(samples[1].mask).tolist() == [[0, 10, IGNORE]]

    def test_without_labels(self, root):
        (root / "gtFine").rename(root / "elsewhere")
        assert {sample.mask for sample in self.reader(root).scan()} == {None}

    def test_selection(self, root):
        selected = self.reader(root, select={"splits": ["train"], "groups": ["zurich"]}).scan()
        assert ids(selected) == ["train/zurich/zurich_000001_000019"]
        assert len(self.reader(root, select={"names": "aachen_*"}).scan()) == 1

    def test_metadata_of_vehicle_and_camera(self, root):
        vehicle = {"gpsHeading": 281.0, "outsideTemperature": 19.5, "speed": 10, "yawRate": None}
        camera = {"extrinsic": {"baseline": 0.209313, "pitch": 0.038}, "intrinsic": {"fx": 2262.52}}
        for kind, content in (("vehicle", vehicle), ("camera", camera)):
            path = touch(root / kind / f"train/aachen/aachen_000000_000019_{kind}.json")
            path.write_text(json.dumps(content))
        (root / "notes.csv").write_text("filename,weather\naachen_000000_000019_leftImg8bit.png,rain\n")
        reader = self.reader(root, metadata=root / "notes.csv", select={"splits": ["train"]})
        assert reader.metadata(reader.scan()) == {
            "train/aachen/aachen_000000_000019": {
                "vehicle.gpsHeading": 281.0,
                "vehicle.outsideTemperature": 19.5,
                "vehicle.speed": 10.0,
                "camera.extrinsic.baseline": 0.209313,
                "camera.extrinsic.pitch": 0.038,
                "camera.intrinsic.fx": 2262.52,
                "weather": "rain",
            },
            "train/zurich/zurich_000001_000019": {},
        }

    def test_no_pictures(self, tmp_path):
        with pytest.raises(DatasetError, match=r"no pictures; expected leftImg8bit/<split>/<city>/\*_leftImg8bit\.png"):
            self.reader(tmp_path).scan()

    def test_other_classes(self, root):
        with pytest.raises(DatasetError, match=r"ours: none of the set's classes .* the config has cat, dog; give"):
            self.reader(root, class_names=("cat", "dog"))


class TestKitti:
    @pytest.fixture
    def root(self, tmp_path):
        for i in range(4):
            put(tmp_path / "training" / "image_2" / f"{i:06d}_10.png")
            put(tmp_path / "training" / "semantic" / f"{i:06d}_10.png", [[7, 26, 0]])
            touch(tmp_path / "training" / "semantic_rgb" / f"{i:06d}_10.png")
            touch(tmp_path / "training" / "instance" / f"{i:06d}_10.png")
            put(tmp_path / "testing" / "image_2" / f"{i:06d}_10.png")
        return tmp_path

    def scan(self, root, **options):
        return KittiReader(dataset("kitti", root, **options), CITYSCAPES19).scan()

    def test_layout(self, root):
        samples = self.scan(root)
        assert ids(samples) == [f"{split}/{i:06d}_10" for split in ("testing", "training") for i in range(4)]
        assert {sample.mask for sample in samples[:4]} == {None}
        assert samples[4] == SampleFile(
            "training/000000_10",
            root / "training/image_2/000000_10.png",
            root / "training/semantic/000000_10.png",
            "training",
            "",
        )
        reader = KittiReader(dataset("kitti", root), CITYSCAPES19)
        assert reader.read_mask(samples[4].mask).tolist() == [[0, 13, IGNORE]]

    @pytest.mark.parametrize("place", ["train_mapping.txt", "devkit/mapping/train_mapping.txt", "training_mapping.txt"])
    def test_drives_of_the_mapping(self, root, place):
        touch(root / place).write_text(
            "2011_09_26 2011_09_26_drive_0005_sync 0000000010\n\n"
            "2011_09_26 2011_09_26_drive_0005_sync 0000000020\n2011_09_28 2011_09_28_drive_0002_sync 0000000003\n"
        )
        groups = [sample.group for sample in self.scan(root, select={"splits": ["training"]})]
        first, second = "2011_09_26_drive_0005_sync", "2011_09_28_drive_0002_sync"
        assert groups == [first, "", first, second]
        assert len(self.scan(root, select={"groups": [first]})) == 2

    def test_broken_mapping(self, root):
        (root / "train_mapping.txt").write_text("2011_09_26 2011_09_26_drive_0005_sync 0000000010\noops\n")
        with pytest.raises(
            DatasetError, match=r"train_mapping\.txt: line 2: expected 'date date_drive_nnnn_sync frame'"
        ):
            self.scan(root)

    def test_blocks(self, root):
        groups = [sample.group for sample in self.scan(root, group_blocks=2, select={"splits": ["training"]})]
        assert groups == ["block002", "block002", "block003", "block003"]

    def test_no_pictures(self, tmp_path):
        with pytest.raises(DatasetError, match=r"no pictures; expected training/image_2/\*\.png"):
            self.scan(tmp_path)


class TestCamvid:
    NAMES = ("0001TP_006690", "0006R0_f00930", "0016E5_07959", "Seq05VD_f00000")
    DRIVES = ("0001TP", "0006R0", "0016E5", "Seq05VD")

    def reader(self, root, class_names=CAMVID11, **options):
        return CamvidReader(dataset("camvid", root, **options), class_names)

    @pytest.fixture
    def segnet(self, tmp_path):
        for name, split in zip(self.NAMES, ("train", "train", "val", "test"), strict=True):
            put(tmp_path / split / f"{name}.png")
            put(tmp_path / f"{split}annot" / f"{name}.png", [[0, 3, 10, 11]])
        touch(tmp_path / "train.txt")
        return tmp_path

    @pytest.fixture
    def original(self, tmp_path):
        for name in self.NAMES:
            put(tmp_path / "701_StillsRaw_full" / f"{name}.png")
            colours = [[(128, 128, 128), (128, 0, 192), (192, 0, 192), (0, 0, 0), (64, 192, 0)]]
            put(tmp_path / "LabeledApproved_full" / f"{name}_L.png", colours)
        return tmp_path

    def test_segnets_form(self, segnet):
        samples = self.reader(segnet).scan()
        assert ids(samples) == ["test/Seq05VD_f00000", "train/0001TP_006690", "train/0006R0_f00930", "val/0016E5_07959"]
        assert sorted(sample.group for sample in samples) == sorted(self.DRIVES)
        assert [sample.split for sample in samples] == ["test", "train", "train", "val"]
        assert samples[0].mask == segnet / "testannot/Seq05VD_f00000.png"
        assert self.reader(segnet).read_mask(samples[0].mask).tolist() == [[0, 3, 10, IGNORE]]

    def test_the_original_form(self, original):
        samples = self.reader(original).scan()
        assert ids(samples) == list(self.NAMES)
        assert [sample.group for sample in samples] == list(self.DRIVES)
        assert {sample.split for sample in samples} == {""}
        sky, road, cyclist, fence = (CAMVID11.index(name) for name in ("sky", "road", "cyclist", "fence"))
        assert samples[0].mask == original / "LabeledApproved_full/0001TP_006690_L.png"
        assert self.reader(original).read_mask(samples[0].mask).tolist() == [[sky, road, cyclist, IGNORE, fence]]

    def test_masks_follow_the_configs_class_order(self, segnet):
        reader = self.reader(segnet, class_names=("cyclist", "road"))
        assert reader.read_mask(segnet / "testannot/Seq05VD_f00000.png").tolist() == [[IGNORE, 1, 0, IGNORE]]

    def test_unlabelled_pictures(self, segnet):
        (segnet / "valannot" / "0016E5_07959.png").unlink()
        samples = self.reader(segnet, select={"groups": ["0016E5", "0001TP"]}).scan()
        assert [sample.mask is None for sample in samples] == [False, True]

    def test_no_pictures(self, tmp_path):
        with pytest.raises(
            DatasetError, match=r"no pictures; expected train/, trainannot/.* 701_StillsRaw_full/\*\.png"
        ):
            self.reader(tmp_path).scan()


class TestMetadata:
    EXPECTED = {"0001": {"speed": 12.5, "weather": "rain"}, "0002": {"weather": "dry"}}  # noqa: RUF012

    @pytest.mark.parametrize(("column", "suffix"), [("sample_id", ""), ("name", ""), ("filename", ".png")])
    def test_csv(self, tmp_path, column, suffix):
        path = tmp_path / "m.csv"
        path.write_text(f"\ufeff{column},speed,weather\n0001{suffix},12.5,rain\n0002{suffix},,dry\n", encoding="utf-8")
        assert read_metadata(path) == self.EXPECTED

    def test_parquet(self, tmp_path):
        import polars as pl

        table = {"sample_id": ["0001", "0002"], "speed": [12.5, None], "weather": ["rain", "dry"]}
        pl.DataFrame(table).write_parquet(tmp_path / "m.parquet")
        assert read_metadata(tmp_path / "m.parquet") == self.EXPECTED

    @pytest.mark.parametrize(
        "content",
        [
            [{"name": "0001", "speed": 12.5, "weather": "rain"}, {"filename": "a/0002.jpg", "weather": "dry"}],
            {"0001": {"speed": 12.5, "weather": "rain"}, "0002": {"speed": None, "weather": "dry"}},
        ],
    )
    def test_json(self, tmp_path, content):
        (tmp_path / "m.json").write_text(json.dumps(content))
        assert read_metadata(tmp_path / "m.json") == self.EXPECTED

    def test_nested_values_get_dotted_names(self, tmp_path):
        (tmp_path / "m.json").write_text('{"a": {"gps": {"lat": 1, "fix": true}, "rain": [0, NaN]}}')
        assert read_metadata(tmp_path / "m.json") == {"a": {"gps.lat": 1.0, "gps.fix": 1.0, "rain.0": 0.0}}

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("m.txt", "", "expected .csv, .parquet or .json"),
            ("m.csv", "speed;weather\n1;rain\n", "expected a column sample_id, name or filename, got speed;weather"),
            ("m.csv", "name,speed\na,1\na,2\n", "two records of sample 'a'"),
            ("m.csv", "name,speed\na,1,2\n", "a row has more fields than the header"),
            ("m.json", "{", "not readable as JSON"),
            ("m.json", "3", "expected a list of records or a mapping by sample, got int"),
            ("m.json", "[1]", "expected records (mappings of names to values), got 1"),
            ("m.json", '{"a": 2}', "expected records (mappings of names to values), got 2"),
            ("m.json", '[{"speed": 1}]', "expected a column sample_id, name or filename, got speed"),
            ("m.parquet", "PAR", "not readable as Parquet"),
        ],
    )
    def test_refusals(self, tmp_path, name, content, message):
        (tmp_path / name).write_text(content)
        with pytest.raises(DatasetError) as caught:
            read_metadata(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_samples_without_any_get_an_empty_entry(self, tmp_path):
        touch(tmp_path / "images" / "a.png")
        touch(tmp_path / "images" / "b.png")
        (tmp_path / "m.csv").write_text("name,speed\na,1\nc,2\n")
        reader = FolderReader(dataset("folder", tmp_path, metadata=tmp_path / "m.csv"), CAMVID11)
        assert reader.metadata(reader.scan()) == {"a": {"speed": 1.0}, "b": {}}
        assert FolderReader(dataset("folder", tmp_path), CAMVID11).metadata(reader.scan()) == {"a": {}, "b": {}}


class TestOpenReader:
    def config(self, tmp_path, **target):
        source = {"name": "day", "reader": "folder", "root": tmp_path}
        return GapConfig.model_validate(
            {
                "store": "s3://bucket/gap",
                "classes": "camvid11",
                "source": source,
                "targets": [{"name": "ours", **target}],
            }
        )

    @pytest.mark.parametrize(
        ("reader", "kind"),
        [("cityscapes", CityscapesReader), ("kitti", KittiReader), ("camvid", CamvidReader), ("folder", FolderReader)],
    )
    def test_each_reader(self, tmp_path, reader, kind):
        config = self.config(tmp_path, reader=reader, root=tmp_path)
        assert isinstance(open_reader(config, config.targets[0]), kind)

    def test_labels_that_are_left_aside(self, tmp_path):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / folder / "a.png")
        seen, hidden = (
            open_reader(config, config.targets[0]).scan()
            for config in (
                self.config(tmp_path, reader="folder", root=tmp_path, use_labels=use_labels)
                for use_labels in (True, False)
            )
        )
        assert seen[0].mask is not None and hidden == [replace(seen[0], mask=None)]

    def test_streets_of_a_store_by_url_are_drawn_into_its_home(self, tmp_path):
        config = self.config(tmp_path, reader="streets", scene="city", count=1)
        config = config.model_copy(update={"home": tmp_path / "home"})
        (sample,) = open_reader(config, config.targets[0]).scan()
        assert sample.image.parent == tmp_path / "home" / "streets" / "ours" / "images"


@needs_real_pictures
class TestRealPictures:
    @pytest.fixture
    def config(self):
        return load_config(SHARED / "gap-camvid.yaml")

    def test_source(self, config):
        samples = open_reader(config, config.source).scan()
        assert len(samples) == 701
        reference = apply_selection(samples, config.source.reference, None)
        assert len(reference) == 305
        assert {(sample.split, sample.group) for sample in reference} == {("train", "0006R0"), ("train", "0016E5")}
        holdout = apply_selection(samples, config.source.holdout, None)
        assert len(holdout) == 171
        assert {sample.group for sample in holdout} == {"Seq05VD"}

    def test_dusk(self, config):
        samples = open_reader(config, config.dataset("camvid_dusk")).scan()
        assert len(samples) == 124
        assert {sample.group for sample in samples} == {"0001TP"}

    def test_kitti(self, config):
        samples = open_reader(config, config.dataset("kitti")).scan()
        assert len(samples) == 48
        assert sorted({sample.group for sample in samples}) == [f"block{i:03d}" for i in range(8)]

    @pytest.mark.parametrize(("key", "shape"), [("source", (360, 480)), ("kitti", (309, 1024))])
    def test_pictures_and_masks_decode(self, config, key, shape):
        reader = open_reader(config, config.dataset(key))
        for sample in reader.scan()[::16]:
            assert sample.mask is not None
            mask = reader.read_mask(sample.mask)
            assert read_image(sample.image).shape == (*shape, 3)
            assert mask.shape == shape
            assert set(np.unique(mask)) <= {*range(11), IGNORE}
            assert (mask == config.class_names.index("road")).any()
