"""Layout traits on masks drawn by hand, whose counts, sizes and horizons are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assets.traits.layout import is_countable, measure_layout
from assets.traits.registry import layout_traits
from resources.config import CAMVID11, CITYSCAPES19

CLASSES = ("road", "sky", "building", "car")
ROAD, SKY, BUILDING, CAR = range(4)


@pytest.fixture
def street():
    """100 × 100: sky to row 30, building to row 60, road below, three cars of 10×10, 20×20 and 10×40, one speck."""
    mask = np.full((100, 100), BUILDING, dtype=np.uint8)
    mask[:30] = SKY
    mask[60:] = ROAD
    mask[65:75, 5:15] = CAR
    mask[65:85, 30:50] = CAR
    mask[80:90, 55:95] = CAR
    return mask


def test_known_shares_counts_sizes_and_horizons(street):
    values = measure_layout(street, CLASSES)
    assert values["labelled"] == 1
    assert values["share_sky"] == pytest.approx(0.3)
    assert values["share_building"] == pytest.approx(0.3)
    assert values["share_car"] == pytest.approx(0.09)
    assert values["count_car"] == 3
    assert values["median_size_car"] == pytest.approx(0.2)
    assert values["largest_size_car"] == pytest.approx(0.2)
    assert values["sky_horizon"] == pytest.approx(0.3)
    assert values["road_horizon"] == pytest.approx(0.6)


def test_ignored_pixels_count_in_no_share(street):
    street[:, :50] = 255
    values = measure_layout(street, CLASSES)
    assert values["labelled"] == pytest.approx(0.5)
    assert sum(values[f"share_{name}"] for name in CLASSES) == pytest.approx(1)
    assert values["share_sky"] == pytest.approx(0.3)


def test_an_absent_class_has_share_and_count_zero_and_no_size(street):
    street[street == CAR] = ROAD
    street[street == SKY] = BUILDING
    values = measure_layout(street, CLASSES)
    assert values["share_car"] == values["count_car"] == values["share_sky"] == 0
    for name in ("median_size_car", "largest_size_car", "sky_horizon"):
        assert math.isnan(values[name])


def test_a_mask_without_labels_has_no_shares():
    values = measure_layout(np.full((20, 30), 255, dtype=np.uint8), CLASSES)
    assert values.pop("labelled") == values.pop("count_car") == 0
    assert all(math.isnan(value) for value in values.values())


def test_specks_are_no_objects_and_diagonal_neighbours_are_one():
    mask = np.full((200, 200), ROAD, dtype=np.uint8)
    mask[10, 10] = CAR  # one pixel of 40,000: below 1/10,000
    mask[50:52, 50:52] = CAR
    mask[52:54, 52:54] = CAR
    mask[100:102, 100:102] = CAR
    values = measure_layout(mask, CLASSES)
    assert values["count_car"] == 2
    assert values["largest_size_car"] == pytest.approx(math.sqrt(8) / 200)
    assert values["median_size_car"] == pytest.approx((math.sqrt(8) + 2) / 2 / 200)


def test_stray_pixels_do_not_move_the_horizons(street):
    street[99, 0] = SKY
    street[0, 0] = ROAD
    street[1, 0] = ROAD  # one road pixel of 100 is just 1% of the row
    values = measure_layout(street, CLASSES)
    assert values["sky_horizon"] == pytest.approx(0.3)
    assert values["road_horizon"] == 0
    wide = np.tile(street, (1, 3))
    wide[:2, 100:] = SKY
    assert measure_layout(wide, CLASSES)["road_horizon"] == pytest.approx(0.6)


def test_entropy_is_that_of_the_cells():
    mask = np.full((80, 80), ROAD, dtype=np.uint8)
    assert measure_layout(mask, CLASSES)["layout_entropy"] == 0
    mask[:40, :] = SKY  # the border lies between cells
    assert measure_layout(mask, CLASSES)["layout_entropy"] == 0
    mask[:, 1::2] = BUILDING  # half of every cell
    assert measure_layout(mask, CLASSES)["layout_entropy"] == pytest.approx(1)


@given(
    mask=arrays(
        np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.sampled_from([0, 1, 2, 3, 255])
    )
)
@settings(max_examples=60, deadline=None)
def test_any_mask_keeps_the_ranges(mask):
    values = measure_layout(mask, CLASSES)
    assert list(values) == [trait.name for trait in layout_traits(CLASSES)]
    shares = [values[f"share_{name}"] for name in CLASSES]
    if (mask < 4).any():
        assert sum(shares) == pytest.approx(1)
        assert 0 <= values["layout_entropy"] <= 2
    else:
        assert all(math.isnan(share) for share in shares)
    for name in ("labelled", "sky_horizon", "road_horizon", "median_size_car", "largest_size_car"):
        assert math.isnan(values[name]) or 0 <= values[name] <= 1
    flipped = measure_layout(mask[:, ::-1], CLASSES)
    for name in values:
        if name != "layout_entropy":  # cells of unequal width are not symmetric
            assert flipped[name] == pytest.approx(values[name], nan_ok=True)


@pytest.mark.parametrize("names", [CITYSCAPES19, CAMVID11, ("Traffic Light", "Cars", "lane-marking")])
def test_names_are_those_of_the_catalogue(names):
    mask = np.random.default_rng(0).integers(0, len(names), (24, 32), dtype=np.uint8)
    assert list(measure_layout(mask, names)) == [trait.name for trait in layout_traits(names)]


def test_what_is_countable():
    countable = [name for name in CITYSCAPES19 if is_countable(name)]
    assert countable == [
        "pole", "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
        "bicycle",
    ]  # fmt: skip
    assert is_countable("Pedestrians")
    assert not is_countable("carpet")
