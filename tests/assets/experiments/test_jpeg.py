"""The imitation of JPEG is compared with Pillow's; deblocking with the picture before it was compressed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from assets.experiments.jpeg import CHROMA_TABLE, Deblock, Jpeg, file_scale, luma_table
from assets.experiments.operators import NotApplicable


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth colours, edges and some texture in 8 bits, (2, 3, 117, 150)."""
    rng = np.random.default_rng(0)
    planes = ndimage.gaussian_filter(rng.normal(size=(2, 3, 117, 150)), (0, 0, 8, 8), mode="wrap")
    texture = ndimage.gaussian_filter(rng.normal(size=(2, 1, 117, 150)), (0, 0, 1, 1)) * 0.03
    values = np.clip(0.5 + 3 * planes + 0.15 * np.sign(planes[:, :1]) + texture, 0, 1)
    return torch.tensor(np.round(values * 255) / 255, dtype=torch.float32)


def by_pillow(batch: torch.Tensor, quality: int) -> torch.Tensor:
    decoded = []
    for picture in batch:
        buffer = io.BytesIO()
        levels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(buffer, "JPEG", quality=quality)
        decoded.append(torch.tensor(np.asarray(Image.open(buffer))).permute(2, 0, 1).float() / 255)
    return torch.stack(decoded)


@pytest.mark.parametrize("quality", [8, 25, 50, 75, 92])
def test_it_is_within_a_grey_level_of_pillow(pictures, quality):
    expected = by_pillow(pictures, quality)
    found = Jpeg().apply(pictures, Jpeg().at(quality))
    distance = 255 * (found - expected).abs().mean()
    assert distance < 1.0
    assert distance < 0.4 * 255 * (pictures - expected).abs().mean(), "nearer than the picture that was not compressed"


@pytest.mark.parametrize("quality", [5, 30, 50, 80, 95])
def test_tables_are_those_that_pillow_writes(pictures, quality):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    written = Image.open(buffer).quantization
    parameters = Jpeg().at(quality)
    assert sorted(parameters["luma"]) == sorted(written[0]) and sorted(parameters["chroma"]) == sorted(written[1])
    assert parameters["luma"] == luma_table(quality)
    assert len(CHROMA_TABLE) == 64


@pytest.mark.parametrize("quality", [10, 25, 50])
def test_deblocking_comes_nearer_to_the_picture_before(pictures, quality):
    compressed = by_pillow(pictures, quality)
    restored = Deblock().apply(compressed, Deblock().at(quality))
    assert (restored - pictures).square().mean() < 0.97 * (compressed - pictures).square().mean()


def test_pictures_are_compressed_at_the_size_of_the_files(pictures):
    """What enlarges, compresses and reduces is near to reducing what was compressed at the files' size."""
    files = torch.nn.functional.interpolate(pictures, size=(234, 300), mode="bilinear")
    wanted = torch.nn.functional.interpolate(by_pillow(files, 15), size=(117, 150), mode="bilinear", antialias=True)
    reduced = torch.nn.functional.interpolate(files, size=(117, 150), mode="bilinear", antialias=True)
    operator = Jpeg()
    errors = [
        (operator.apply(reduced, operator.at(15) | {"scale": scale}) - wanted).abs().mean() for scale in (2.0, 1.0)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_qualities_are_the_sets_medians(scenes, statistics_of):
    batch = scenes(3, seed=1)
    coarse = statistics_of(batch, jpeg_quality=np.array([40.0, 35.0, 45.0]), megapixels=np.full(3, 4 * 64 * 96 / 1e6))
    fine = statistics_of(batch, jpeg_quality=np.array([100.0, 95.0, 90.0]))
    assert Jpeg().fit(coarse, fine) == Jpeg().at(40) | {"scale": 1.0}
    assert Deblock().fit(fine, coarse) == Deblock().at(40) | {"scale": 2.0}
    assert file_scale(coarse) == 2.0
    with pytest.raises(NotApplicable, match="compressed no more than the other set: JPEG quality 95 against 40"):
        Jpeg().fit(fine, coarse)
    with pytest.raises(NotApplicable, match="compressed no more"):
        Deblock().fit(coarse, fine)
    with pytest.raises(NotApplicable, match="jpeg_quality is not measured in both sets"):
        Jpeg().fit(coarse, statistics_of(batch))
