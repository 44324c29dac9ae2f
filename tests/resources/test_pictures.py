"""Pictures on their way to the model: the one resize, and batches in order however they are decoded."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as vision

from resources.config import DatasetConfig
from resources.datasets.folder import FolderReader
from resources.errors import UnreadableSample
from resources.pictures import SamplePaths, load_batches, load_picture, to_input, to_input_mask

SIZE = (64, 96)
CLASSES = ("road", "sky", "car")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures of several sizes, all but the last with a mask."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    draws = np.random.default_rng(0)
    for i in range(7):
        height, width = 40 + 10 * i, 90 + 5 * i
        Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / "images" / f"p{i}.png")
        if i < 6:
            mask = draws.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
            Image.fromarray(mask).save(root / "masks" / f"p{i}.png")
    return root


@pytest.fixture(scope="module")
def reader(folder):
    return FolderReader(DatasetConfig(name="set", reader="folder", root=folder), CLASSES)


@pytest.fixture(scope="module")
def samples(reader):
    return [SamplePaths(sample.sample_id, sample.image, sample.mask) for sample in reader.scan()]


def picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


@pytest.mark.parametrize("shape", [(200, 310), (64, 96), (50, 60), (375, 1242), (64, 200)])
def test_the_resize_is_the_antialiased_bilinear_one(shape):
    image = picture(*shape)
    found = to_input(image, SIZE)
    assert found.dtype == torch.float32
    assert tuple(found.shape) == (3, *SIZE)
    pillow = np.asarray(Image.fromarray(image).resize((SIZE[1], SIZE[0]), Image.BILINEAR), np.float32) / 255
    assert np.abs(found.permute(1, 2, 0).numpy() - pillow).max() < 1.5 / 255  # Pillow rounds twice to 8 bits
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(found, vision.resize(tensor, list(SIZE), antialias=True), atol=1e-5, rtol=0)


def test_a_picture_of_the_right_size_stays_as_it_is():
    image = picture(*SIZE)
    assert np.array_equal(to_input(image, SIZE).mul(255).round().byte().permute(1, 2, 0).numpy(), image)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_values_stay_between_0_and_1_and_the_picture_is_not_changed(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    found = to_input(image, SIZE)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert np.array_equal(image, before)


def test_a_plain_picture_stays_plain():
    image = np.full((133, 77, 3), (10, 128, 250), np.uint8)
    expected = torch.tensor([10, 128, 250]).div(255)[:, None, None].expand(3, *SIZE)
    torch.testing.assert_close(to_input(image, SIZE), expected, atol=1e-6, rtol=0)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 80), st.integers(1, 80))
@settings(max_examples=50, deadline=None)
def test_a_mask_takes_the_pixel_under_each_centre(height, width, rows, columns):
    mask = np.random.default_rng(height * width).integers(0, 256, (height, width), dtype=np.uint8)
    found = to_input_mask(mask, (rows, columns))
    assert found.dtype == np.uint8
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].double(), size=(rows, columns), mode="nearest-exact"
    )[0, 0].numpy()
    fits = found == exact
    for row, column in zip(*np.nonzero(~fits), strict=True):  # a centre on the border of two pixels: either will do
        at = ((row + 0.5) * height / rows, (column + 0.5) * width / columns)
        assert any(abs(place - round(place)) < 1e-4 for place in at)


def test_a_mask_invents_no_class():
    mask = np.where(np.arange(301)[None] % 2, 0, 255).astype(np.uint8).repeat(200, 0)
    assert set(np.unique(to_input_mask(mask, SIZE))) <= {0, 255}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_batches_come_in_order_and_complete(reader, samples, workers, batch_size):
    order = [samples[i] for i in (4, 0, 6, 2, 5, 1, 3)]
    batches = list(load_batches(reader, order, SIZE, batch_size=batch_size, workers=workers))
    assert [len(batch.ids) for batch in batches] == [batch_size] * (7 // batch_size) + [7 % batch_size] * bool(
        7 % batch_size
    )
    assert [name for batch in batches for name in batch.ids] == [sample.sample_id for sample in order]
    for batch in batches:
        assert tuple(batch.reduced.shape) == (len(batch.pictures), 3, *SIZE)
        for alone, stacked in zip(batch.pictures, batch.reduced, strict=True):
            assert torch.equal(alone.reduced, stacked)
    by_id = {sample.sample_id: sample for sample in samples}
    for loaded in (loaded for batch in batches for loaded in batch.pictures):
        source = by_id[loaded.sample_id]
        assert np.array_equal(loaded.image, np.asarray(Image.open(source.image)))
        assert torch.equal(loaded.reduced, to_input(loaded.image, SIZE))
        if source.mask is None:
            assert loaded.mask is None
        else:
            assert np.array_equal(loaded.mask, np.asarray(Image.open(source.mask)))


def test_nothing_to_load_gives_no_batch(reader):
    assert list(load_batches(reader, [], SIZE, batch_size=4, workers=2)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_broke_under_the_run_is_named_after_the_batches_before_it(reader, samples, tmp_path, workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[0].image.read_bytes()[:200])
    order = [*samples[:2], SamplePaths("broken", broken, None), samples[2]]
    batches = load_batches(reader, order, SIZE, batch_size=2, workers=workers)
    assert next(batches).ids == ["p0", "p1"]
    with pytest.raises(UnreadableSample, match=r"broken\.png"):
        next(batches)


def test_a_mask_with_an_unknown_id_is_named(reader, samples, tmp_path):
    odd = tmp_path / "odd.png"
    Image.fromarray(np.full((40, 90), 77, np.uint8)).save(odd)
    with pytest.raises(UnreadableSample, match=r"odd\.png.*77"):
        load_picture(reader, SamplePaths("p0", samples[0].image, odd), SIZE)


def test_decoding_stays_close_to_the_model_and_stops_with_it(folder, reader, samples):
    """Threads run at most two batches ahead, and none is left when the consumer goes away."""

    class CountingReader:
        opened = 0

        def read_mask(self, path):
            CountingReader.opened += 1
            return reader.read_mask(path)

    many = samples[:6] * 10
    batches = load_batches(CountingReader(), many, SIZE, batch_size=2, workers=2)
    next(batches)
    batches.close()
    assert CountingReader.opened <= 2 + 2 * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
