"""Traits of regions on scenes drawn by hand: they follow the road's look, and nothing else that is in view."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab

from assets.traits.colour import colour_traits
from assets.traits.regional import MOST_PIXELS, measure_regions
from assets.traits.registry import region_traits
from resources.config import CAMVID11, CITYSCAPES19

CLASSES = ("road", "sky", "vegetation", "car", "pole", "traffic sign")
ROAD, SKY, VEGETATION, CAR, POLE, SIGN = range(6)
ROAD_LOOK = ("road_brightness", "road_saturation", "road_tint_a", "road_tint_b", "road_sharpness")


@pytest.fixture
def street():
    """100 × 100: sky to row 30, vegetation to row 60, road below; two cars, a sign on its pole, a pole."""
    mask = np.full((100, 100), VEGETATION, dtype=np.uint8)
    mask[:30] = SKY
    mask[60:] = ROAD
    mask[62:72, 10:20] = CAR
    mask[70:95, 60:80] = CAR
    mask[40:65, 30] = POLE
    mask[35:40, 29:32] = SIGN
    mask[40:65, 90] = POLE
    return mask


@pytest.fixture
def picture(street):
    """Grey, rough asphalt, a blue sky, green vegetation, red cars: float32 (3, 100, 100)."""
    colours = np.array([[0.4, 0.42, 0.45], [0.5, 0.7, 1.0], [0.2, 0.6, 0.2], [0.8, 0.1, 0.1], [0.3] * 3, [0.9, 0.9, 0]])
    noise = np.random.default_rng(0).normal(0, 0.02, (100, 100, 1))
    return torch.tensor(np.clip(colours[street] + noise, 0, 1), dtype=torch.float32).permute(2, 0, 1)


@pytest.mark.parametrize("names", [CLASSES, CITYSCAPES19, CAMVID11, ("building", "Cars", "street lamps"), ("wall",)])
def test_names_are_those_of_the_catalogue(picture, names):
    mask = np.random.default_rng(0).integers(0, len(names), (100, 100), dtype=np.uint8)
    assert list(measure_regions(picture, mask, names)) == [trait.name for trait in region_traits(names)]


def test_the_roads_look_is_numpys_scipys_and_scikit_images(picture, street):
    values = measure_regions(picture, street, CLASSES)
    plain = picture.permute(1, 2, 0).double().numpy()
    road = street == ROAD
    grey = plain @ [0.299, 0.587, 0.114]
    inner = ndimage.binary_erosion(road)
    lab = rgb2lab(plain)[road]
    assert values["road_brightness"] == pytest.approx(grey[road].mean(), abs=1e-5)
    assert values["road_saturation"] == pytest.approx((plain.max(-1) - plain.min(-1))[road].mean(), abs=1e-5)
    assert values["road_tint_a"] == pytest.approx(lab[:, 1].mean(), abs=0.01)
    assert values["road_tint_b"] == pytest.approx(lab[:, 2].mean(), abs=0.01)
    assert values["road_sharpness"] == pytest.approx(np.log10(ndimage.laplace(grey)[inner].var()), abs=1e-4)


def test_what_else_is_in_view_leaves_the_roads_look_alone(picture, street):
    """The control that the traits are for: the whole picture turns greener, the road does not."""
    greener = picture.clone()
    greener[:, :30] = torch.tensor([0.2, 0.6, 0.2])[:, None, None]  # trees where the sky was
    before, after = (measure_regions(each, street, CLASSES) for each in (picture, greener))
    for name in ROAD_LOOK:
        assert after[name] == before[name]
    whole_before, whole_after = (float(colour_traits(each[None])["lab_b_mean"][0]) for each in (picture, greener))
    assert whole_after > whole_before + 5


def test_a_cameras_tint_moves_the_road_as_the_picture(picture, street):
    before = measure_regions(picture, street, CLASSES)
    warm = measure_regions(picture * torch.tensor([1.0, 0.95, 0.8])[:, None, None], street, CLASSES)
    dark = measure_regions(0.5 * picture, street, CLASSES)
    assert warm["road_tint_b"] > before["road_tint_b"] + 5
    assert dark["road_brightness"] == pytest.approx(0.5 * before["road_brightness"], rel=1e-4)
    assert dark["road_saturation"] == pytest.approx(0.5 * before["road_saturation"], rel=1e-4)
    assert dark["road_sharpness"] == pytest.approx(before["road_sharpness"] + 2 * math.log10(0.5), abs=1e-3)


def test_blur_lowers_the_roads_sharpness_whatever_stands_beside_it(picture, street):
    sharp = measure_regions(picture, street, CLASSES)["road_sharpness"]
    blurred = torch.tensor(ndimage.gaussian_filter(picture.numpy(), (0, 1, 1)))
    assert measure_regions(blurred, street, CLASSES)["road_sharpness"] < sharp - 1
    louder = picture.clone()
    louder[:, torch.from_numpy(street != ROAD)] = (louder[:, torch.from_numpy(street != ROAD)] > 0.5).float()
    assert measure_regions(louder, street, CLASSES)["road_sharpness"] == sharp


def test_a_large_road_is_thinned_and_looks_the_same(picture, street):
    large, mask = picture.repeat(1, 4, 4), np.tile(street, (4, 4))
    assert (mask == ROAD).sum() > 4 * MOST_PIXELS
    before, after = measure_regions(picture, street, CLASSES), measure_regions(large, mask, CLASSES)
    for name, tolerance in zip(ROAD_LOOK, (0.002, 0.001, 0.05, 0.05, 0.01), strict=True):
        assert after[name] == pytest.approx(before[name], abs=tolerance)


@pytest.mark.parametrize(("pixels", "there"), [(0, False), (49, False), (64, True)])
def test_too_little_road_has_no_look(picture, pixels, there):
    mask = np.full((100, 100), SKY, dtype=np.uint8)
    mask[50:60, 50:60][np.arange(100).reshape(10, 10) < pixels] = ROAD
    values = measure_regions(picture, mask, CLASSES)
    assert [math.isfinite(values[name]) for name in ROAD_LOOK[:4]] == [there] * 4
    assert math.isnan(values["road_sharpness"])  # of 64 pixels, fewer than 50 have road on all sides


def test_nearest_car_is_that_of_the_lowest_border(picture, street):
    assert measure_regions(picture, street, CLASSES)["nearest_car_size"] == pytest.approx(0.25)
    street[62:98, 10:20] = CAR
    assert measure_regions(picture, street, CLASSES)["nearest_car_size"] == pytest.approx(0.36)
    street[99, 0] = CAR  # as small as an object may be: 1 of 10,000 pixels
    assert measure_regions(picture, street, CLASSES)["nearest_car_size"] == pytest.approx(0.01)
    street[street == CAR] = ROAD
    assert math.isnan(measure_regions(picture, street, CLASSES)["nearest_car_size"])


def test_specks_are_no_cars(street):
    large = np.repeat(np.repeat(street, 2, axis=0), 2, axis=1)
    large[199, 0] = CAR  # 1 of 40,000 pixels
    assert measure_regions(torch.zeros(3, 200, 200), large, CLASSES)["nearest_car_size"] == pytest.approx(0.25)


def test_a_sign_on_its_pole_is_one_roadside_object(picture, street):
    assert measure_regions(picture, street, CLASSES)["roadside_objects"] == 2
    street[39, 29:32] = VEGETATION
    assert measure_regions(picture, street, CLASSES)["roadside_objects"] == 3
    street[(street == POLE) | (street == SIGN)] = 255
    assert measure_regions(picture, street, CLASSES)["roadside_objects"] == 0


def test_sky_counts_above_the_road_alone(picture, street):
    values = measure_regions(picture, street, CLASSES)
    assert values["sky_above_horizon"] == pytest.approx(0.5)  # rows 0..30 of 0..60
    street[:30, :50] = 255  # unlabelled pixels do not count
    assert measure_regions(picture, street, CLASSES)["sky_above_horizon"] == pytest.approx(1500 / 4500)
    street[90:, :40] = SKY  # a puddle below the horizon
    assert measure_regions(picture, street, CLASSES)["sky_above_horizon"] == pytest.approx(1500 / 4500)


def test_without_road_the_horizon_is_the_middle(picture, street):
    street[street == ROAD] = VEGETATION
    assert measure_regions(picture, street, CLASSES)["sky_above_horizon"] == pytest.approx(30 / 50)
    street[0] = ROAD  # road at the very top leaves nothing above it
    assert measure_regions(picture, street, CLASSES)["sky_above_horizon"] == pytest.approx(29 / 50)
    without_road = ("building", *CLASSES[1:])
    assert measure_regions(picture, street, without_road)["sky_above_horizon"] == pytest.approx(29 / 50)


def test_a_mask_without_labels_has_no_regions(picture):
    values = measure_regions(picture, np.full((100, 100), 255, dtype=np.uint8), CLASSES)
    assert all(math.isnan(value) for value in values.values())


def test_picture_and_mask_are_left_as_they_were(picture, street):
    before, mask = picture.clone(), street.copy()
    measure_regions(picture, street, CLASSES)
    assert torch.equal(picture, before)
    np.testing.assert_array_equal(street, mask)


@given(
    mask=arrays(
        np.uint8, st.tuples(st.integers(1, 16), st.integers(1, 16)), elements=st.sampled_from([0, 1, 2, 3, 4, 255])
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_mask_keeps_the_ranges_and_its_mirror_image_the_values(mask, seed):
    picture = torch.rand(3, *mask.shape, generator=torch.Generator().manual_seed(seed))
    values = measure_regions(picture, mask, CLASSES)
    for name in ("road_brightness", "road_saturation", "nearest_car_size", "sky_above_horizon"):
        assert math.isnan(values[name]) or 0 <= values[name] <= 1
    assert math.isnan(values["road_brightness"]) == (ROAD not in mask)
    assert math.isnan(values["nearest_car_size"]) == (CAR not in mask)
    mirrored = measure_regions(picture.flip(2), mask[:, ::-1], CLASSES)
    for name, value in values.items():
        assert mirrored[name] == pytest.approx(value, abs=1e-3, nan_ok=True), name


def test_real_roads_are_greyer_than_the_pictures(real_paths):
    for path in real_paths["camvid"]:
        mask = np.asarray(Image.open(path.parents[1] / "masks" / f"{path.stem}.png"))
        picture = torch.tensor(np.asarray(Image.open(path))).permute(2, 0, 1) / 255
        values = measure_regions(picture, mask, CAMVID11)
        assert all(math.isfinite(values[name]) for name in ROAD_LOOK)
        assert math.hypot(values["road_tint_a"], values["road_tint_b"]) < 15
        assert values["road_saturation"] < 0.2
