"""Compression traits against pictures that Pillow compressed at known qualities, and against plain numpy."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from assets.traits.compression import ijg_luma_steps, measure_compression
from assets.traits.registry import original_traits


def decoded(image, **settings):
    """The picture after a JPEG encoder and decoder that are not ours."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **settings)
    return np.asarray(Image.open(buffer))


def quality(image):
    return measure_compression(image)["jpeg_quality"]


def blockiness(image):
    return measure_compression(image)["blockiness"]


@pytest.fixture(scope="module")
def drawn():
    """Texture of all scales with edges, uint8 (161, 241, 3), nowhere clipped, never compressed."""
    rng = np.random.default_rng(0)
    planes = [sum(s * ndimage.gaussian_filter(rng.normal(size=(161, 241)), s) for s in (0.7, 2, 6)) for _ in range(3)]
    picture = 120 + 12 * np.stack(planes, axis=-1) + 30 * np.sign(planes[0])[..., None]
    return np.clip(picture, 5, 250).astype(np.uint8)


@pytest.fixture(scope="module")
def uncompressed(real_paths):
    """Real pictures that were stored without loss after a resize."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in real_paths["kitti"][::2]]


def test_names_are_those_of_the_catalogue(drawn):
    assert list(measure_compression(drawn)) == [trait.name for trait in original_traits()]


@pytest.mark.parametrize("level", range(1, 101))
def test_steps_are_those_of_pillows_libjpeg(level):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=level)
    assert Image.open(buffer).quantization[0] == ijg_luma_steps(level).ravel().tolist()


@pytest.mark.parametrize("level", [5, 25, 50, 75, 90, 95, 98])
def test_quality_is_the_encoders(drawn, level):
    assert quality(decoded(drawn, quality=level)) == level
    assert quality(decoded(drawn, quality=level, subsampling="4:4:4")) == level


def test_a_picture_without_compression_has_no_trace(drawn):
    assert measure_compression(drawn) == {"blockiness": pytest.approx(0, abs=0.05), "jpeg_quality": 100}


def test_quality_of_real_pictures_is_within_one_of_the_encoders(uncompressed):
    for picture in uncompressed:
        assert quality(picture) == 100
        for level in (10, 30, 50, 70, 80, 90, 95, 98):
            assert abs(quality(decoded(picture, quality=level)) - level) <= 1


def test_quality_of_real_files_is_their_headers(real_paths):
    for path in real_paths["camvid"]:
        with Image.open(path) as file:
            picture = np.asarray(file.convert("RGB"))
            steps = np.array(file.quantization[0]).reshape(8, 8)
        found = quality(picture)
        assert found < 100
        np.testing.assert_array_equal(ijg_luma_steps(int(found)), steps)


def test_blockiness_of_real_pictures_falls_with_quality(uncompressed):
    for picture in uncompressed:
        values = [blockiness(decoded(picture, quality=level)) for level in (5, 10, 20, 50, 80, 95)]
        assert values == sorted(values, reverse=True)
        assert values[0] > 0.7
        assert blockiness(picture) == pytest.approx(0, abs=0.06)


def ratio_of_steps(picture):
    """Blockiness of a picture of (8m + 1) × (8n + 1) pixels, all of it in float64."""
    grey = picture.astype(float) @ [0.299, 0.587, 0.114]
    steps = [np.abs(np.diff(grey[:-1], axis=1)).mean(axis=0), np.abs(np.diff(grey[:, :-1], axis=0)).mean(axis=1)]
    border = sum(values[7::8].mean() for values in steps) / 2
    inside = sum(np.delete(values, np.s_[7::8]).mean() for values in steps) / 2
    return math.log((border + 0.05) / (inside + 0.05))


def test_blockiness_is_the_ratio_of_steps(drawn):
    for picture in (drawn, decoded(drawn, quality=20)):
        assert blockiness(picture) == pytest.approx(ratio_of_steps(picture), abs=1e-4)


def test_a_crop_off_the_grid_a_resize_and_noise_wipe_the_trace_out(drawn):
    compressed = decoded(drawn, quality=60)
    noise = np.random.default_rng(0).normal(0, 3, drawn.shape)
    small = np.asarray(Image.fromarray(compressed).resize((180, 120), Image.BILINEAR))
    for changed in (compressed[3:, 5:], small, np.clip(np.rint(compressed + noise), 0, 255).astype(np.uint8)):
        assert quality(changed) == 100
    assert quality(compressed[8:, 16:]) == 60
    assert blockiness(compressed[4:, 4:]) < blockiness(compressed)


def test_the_coarser_of_two_compressions_counts(drawn):
    assert quality(decoded(decoded(drawn, quality=60), quality=97)) == 60
    assert quality(decoded(decoded(drawn, quality=97), quality=60)) == 60


@pytest.mark.parametrize("level", [40, 90])
def test_other_tables_count_as_the_quality_of_equal_steps(drawn, level):
    steps = np.clip(ijg_luma_steps(level).ravel() + np.arange(64) % 3 - 1, 2, 255).tolist()
    assert quality(decoded(drawn, qtables=[steps, steps])) == pytest.approx(level, abs=4)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_constant_picture_tells_nothing_of_quality(level):
    values = measure_compression(np.full((160, 160, 3), level, np.uint8))
    assert values["blockiness"] == 0
    assert math.isnan(values["jpeg_quality"])


def test_a_drawing_of_few_flat_parts_tells_nothing_of_quality():
    drawing = np.full((240, 320, 3), 90, np.uint8)
    drawing[100:] = 170
    drawing[:, 60:200] = 30
    assert math.isnan(quality(drawing))


@pytest.mark.parametrize(("shape", "blocks"), [((8, 200), False), ((200, 8), False), ((1, 1), False), ((9, 9), True)])
def test_pictures_too_small_have_none(shape, blocks):
    values = measure_compression(np.random.default_rng(0).integers(1, 255, (*shape, 3), dtype=np.uint8))
    assert math.isfinite(values["blockiness"]) == blocks
    assert math.isnan(values["jpeg_quality"])


def test_a_large_picture_is_read_in_part_and_tells_the_same(drawn):
    large = decoded(np.pad(drawn, ((0, 800), (0, 1200), (0, 0)), mode="reflect"), quality=30)
    assert quality(large) == 30
    assert ratio_of_steps(large) > 0.2
    assert blockiness(large) == pytest.approx(ratio_of_steps(large), abs=0.02)


@given(
    picture=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))), offset=st.integers(0, 60)
)
@settings(max_examples=40, deadline=None)
def test_any_picture_keeps_the_ranges(picture, offset):
    values = measure_compression(picture)
    assert math.isnan(values["jpeg_quality"]) or 1 <= values["jpeg_quality"] <= 100
    assert math.isfinite(values["blockiness"]) == (min(picture.shape[:2]) >= 9)
    turned = measure_compression(picture.swapaxes(0, 1))
    assert turned["blockiness"] == pytest.approx(values["blockiness"], abs=1e-4, nan_ok=True)
    brighter = measure_compression((picture // 2 + offset).astype(np.uint8))
    darker = measure_compression(picture // 2)
    assert brighter["blockiness"] == pytest.approx(darker["blockiness"], abs=1e-3, nan_ok=True)
