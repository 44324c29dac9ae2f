"""Windows cover pictures, cuts are padded, predictions come back to the pixels they belong to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.experiments.geometry import (
    AspectCrop,
    AspectWindows,
    FieldOfView,
    FieldOfViewCrop,
    Letterbox,
    ObjectScale,
    cut,
    stitch,
)
from assets.experiments.operators import NotApplicable, Window
from resources.pictures import to_input

sides = st.integers(20, 300)
aspects = st.floats(0.3, 5)


def aspect_of(window: Window) -> float:
    return (window.right - window.left) / (window.bottom - window.top)


def coverage(windows: list[Window], height: int, width: int) -> np.ndarray:
    counts = np.zeros((height, width), int)
    for window in windows:
        counts[max(window.top, 0) : window.bottom, max(window.left, 0) : window.right] += 1
    return counts


@given(height=sides, width=sides, wanted=aspects, present=aspects)
def test_aspect_windows_cover_every_pixel_in_the_wanted_aspect(height, width, wanted, present):
    windows = AspectWindows().windows(height, width, {"aspect": wanted, "present": present})
    assert coverage(windows, height, width).min() >= 1
    assert len({(window.bottom - window.top, window.right - window.left) for window in windows}) == 1
    window = windows[0]
    assert window.top >= 0 and window.bottom <= height and window.right <= width
    # the largest that fits: one side is the picture's, the other is rounded to a pixel
    size = (window.bottom - window.top, window.right - window.left)
    assert size[0] == height or size[1] == width
    assert abs(size[1] - wanted * size[0]) <= 0.5 * max(1, wanted) + 1e-6 or 1 in size


@given(height=sides, width=sides, wanted=aspects)
def test_neighbouring_windows_overlap(height, width, wanted):
    windows = AspectWindows().windows(height, width, {"aspect": wanted, "present": 1.0})
    for before, after in itertools.pairwise(windows):
        length, step = ((before.right - before.left, after.left - before.left) if after.top == before.top
                        else (before.bottom - before.top, after.top - before.top))  # fmt: skip
        assert step <= 0.75 * length + 1


@given(height=sides, width=sides, aspect=aspects)
def test_a_letterbox_contains_the_picture(height, width, aspect):
    (window,) = Letterbox().windows(height, width, {"aspect": aspect, "present": width / height})
    assert window.top <= 0 and window.left <= 0 and window.bottom >= height and window.right >= width
    # and pads one direction only
    assert window.bottom - window.top == height or window.right - window.left == width
    size = (window.bottom - window.top, window.right - window.left)
    assert abs(size[1] - aspect * size[0]) <= 0.5 * max(1, aspect) + 1e-6


@given(height=sides, width=sides, scale=st.floats(0.4, 1.6))
def test_object_scale_windows_cover_every_pixel_and_keep_the_pictures_shape(height, width, scale):
    windows = ObjectScale(("size",)).windows(height, width, {"scale": scale})
    assert coverage(windows, height, width).min() >= 1
    for window in windows:
        assert window.bottom - window.top == round(height * scale)
        assert window.right - window.left == round(width * scale)
    assert scale <= 1 or len(windows) == 1


@given(height=sides, width=sides, wanted=aspects)
def test_a_crop_is_central_and_of_the_wanted_aspect(height, width, wanted):
    (window,) = AspectCrop().windows(height, width, {"aspect": wanted, "present": width / height})
    assert abs((window.top + window.bottom) - height) <= 1 and abs((window.left + window.right) - width) <= 1
    assert window.top >= 0 and window.left >= 0 and window.bottom <= height and window.right <= width
    assert window.bottom - window.top == height or window.right - window.left == width


@given(wanted=aspects, present=aspects, height=st.integers(150, 300))
def test_the_windows_sham_has_their_area_but_the_pictures_own_shape(wanted, present, height):
    width = round(height * present)
    parameters = {"aspect": wanted, "present": present}
    aimed = AspectWindows().windows(height, width, parameters)[0]
    sham = AspectWindows().windows(height, width, AspectWindows().sham(parameters))
    assert coverage(sham, height, width).min() >= 1
    assert aspect_of(sham[0]) == pytest.approx(width / height, rel=0.15)
    area = [(w.bottom - w.top) * (w.right - w.left) for w in (aimed, sham[0])]
    assert area[1] == pytest.approx(area[0], rel=0.12)


def test_the_letterboxs_sham_stretches_further_by_as_much():
    operator = Letterbox()
    parameters = {"aspect": 2.0, "present": 3.0}
    (aimed,), (sham,) = (operator.windows(100, 300, each) for each in (parameters, operator.sham(parameters)))
    assert aspect_of(aimed) == pytest.approx(2.0, rel=0.02)
    assert aspect_of(sham) == pytest.approx(4.5, rel=0.02)
    padded = [(w.bottom - w.top) * (w.right - w.left) - 100 * 300 for w in (aimed, sham)]
    assert padded[1] == pytest.approx(padded[0], rel=0.02)


def test_the_crops_sham_keeps_as_much_of_the_picture_in_its_own_shape():
    operator = AspectCrop()
    parameters = {"aspect": 1.5, "present": 3.0}
    (aimed,), (sham,) = (operator.windows(100, 300, each) for each in (parameters, operator.sham(parameters)))
    assert aspect_of(sham) == pytest.approx(3.0, rel=0.02)
    areas = [(w.bottom - w.top) * (w.right - w.left) for w in (aimed, sham)]
    assert areas[1] == pytest.approx(areas[0], rel=0.05)


def test_the_scales_sham_goes_the_other_way():
    operator = ObjectScale(("size",))
    assert operator.sham({"scale": 0.8}) == {"scale": 1.25}


def with_sizes(statistics_of, scenes, sizes):
    pictures = scenes(2, seed=1)
    return statistics_of(pictures.repeat(len(sizes) // 2, 1, 1, 1), size=np.asarray(sizes, float))


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.3])
def test_object_scale_is_the_planted_ratio(scenes, statistics_of, ratio):
    rng = np.random.default_rng(0)
    sizes = rng.uniform(0.05, 0.2, 20)
    present = np.append(sizes * ratio, [np.nan, np.nan])
    operator = ObjectScale(("size", "size"))
    found = operator.fit(with_sizes(statistics_of, scenes, sizes), with_sizes(statistics_of, scenes, present))
    assert found["scale"] == pytest.approx(ratio, rel=1e-3)


def test_object_scale_says_why_it_does_not_apply(scenes, statistics_of):
    few = with_sizes(statistics_of, scenes, [0.1] * 4 + [np.nan] * 6)
    many = with_sizes(statistics_of, scenes, [0.1] * 10)
    near = with_sizes(statistics_of, scenes, [0.102] * 10)
    with pytest.raises(NotApplicable, match="fewer than 8 samples with countable objects"):
        ObjectScale(("size",)).fit(many, few)
    with pytest.raises(NotApplicable, match=r"nearly the same size \(ratio 1.02\)"):
        ObjectScale(("size",)).fit(many, near)


@pytest.mark.parametrize("operator", [AspectWindows(), Letterbox(), AspectCrop()])
def test_equal_aspects_leave_nothing_to_undo(scenes, statistics_of, operator):
    pictures = scenes(2, seed=1)
    with pytest.raises(NotApplicable, match=r"both sets have the aspect 2\.01"):
        operator.fit(statistics_of(pictures, aspect=2.0), statistics_of(pictures, aspect=2.01))
    found = operator.fit(statistics_of(pictures, aspect=2.0), statistics_of(pictures, aspect=3.3))
    assert (found["aspect"], found["present"]) == (2.0, 3.3)


def test_a_cut_holds_the_windows_pixels_and_the_fill_around_the_picture():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    inside = cut(image, Window(4, 5, 14, 25), (10, 20), (0, 0, 0))
    assert torch.equal(inside, to_input(np.ascontiguousarray(image[4:14, 5:25]), (10, 20)))
    fill = (0.25, 0.5, 0.75)
    padded = cut(image, Window(-5, -6, 25, 36), (30, 42), fill)
    assert torch.equal(padded[:, 5:25, 6:36], to_input(image, (20, 30)))
    around = torch.ones(30, 42, dtype=torch.bool)
    around[5:25, 6:36] = False
    for channel, value in enumerate(fill):
        assert padded[channel][around].unique().tolist() == pytest.approx([value], abs=0.51 / 255)


def exact_scores(classes: torch.Tensor, count: int = 4) -> torch.Tensor:
    """Logits (count, h, w) that are sure of the given classes."""
    return torch.nn.functional.one_hot(classes.long(), count).permute(2, 0, 1).float() * 20


@settings(max_examples=40, deadline=None)
@given(height=st.integers(20, 80), width=st.integers(20, 80), aspect=st.floats(0.4, 3), data=st.data())
def test_stitching_what_is_exact_per_pixel_gives_the_same_classes(height, width, aspect, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    classes = torch.tensor(rng.integers(0, 4, (height, width)))
    kind = data.draw(st.sampled_from([AspectWindows(), Letterbox(), AspectCrop()]))
    windows = kind.windows(height, width, {"aspect": aspect, "present": width / height})
    size = (windows[0].bottom - windows[0].top, windows[0].right - windows[0].left)
    logits = []
    for window in windows:
        seen = torch.zeros(size)
        for y in range(size[0]):
            for_y = y + window.top
            if 0 <= for_y < height:
                left, right = max(window.left, 0), min(window.right, width)
                seen[y, left - window.left : right - window.left] = classes[for_y, left:right]
        logits.append(exact_scores(seen))
    scores, covered = stitch(torch.stack(logits), windows, (height, width))
    assert torch.equal(covered, torch.tensor(coverage(windows, height, width) > 0))
    assert torch.equal(scores.argmax(0)[covered], classes[covered])
    # log-probabilities: the weights of overlapping windows sum to one at every covered pixel
    assert scores.exp().sum(0)[covered].numpy() == pytest.approx(1.0, abs=1e-4)


def test_stitching_averages_probabilities_with_the_nearer_window_first():
    """Two windows that disagree: the pixel goes with the window in whose middle it lies."""
    windows = [Window(0, 0, 10, 40), Window(0, 20, 10, 60)]
    logits = torch.stack([exact_scores(torch.full((10, 40), value), 2) for value in (0, 1)])
    scores, covered = stitch(logits, windows, (10, 60))
    assert covered.all()
    classes = scores.argmax(0)
    assert (classes[:, :29] == 0).all() and (classes[:, 31:] == 1).all()
    middle = scores[:, 5, 29:31].exp()
    assert middle[0].mean() == pytest.approx(0.5, abs=0.05)


def test_stitching_scales_scores_to_the_windows_pixels():
    logits = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    scores, _ = stitch(logits, [Window(0, 0, 32, 48)], (32, 48))
    resized = torch.nn.functional.interpolate(logits, size=(32, 48), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(scores, resized.log_softmax(0), atol=1e-4)


# --- field of view ---------------------------------------------------------------------------------------------------

VIEW = FieldOfView(("size",), ("road_horizon", "sky_horizon"))
CROP = FieldOfViewCrop(("size",), ("road_horizon", "sky_horizon"))
horizons = st.floats(0.2, 0.8)


@given(height=sides, width=sides, scale=st.floats(0.4, 1.6), horizon=horizons, wanted=horizons)
def test_views_cover_every_pixel_and_one_row_of_them_has_the_horizon_where_it_should_be(
    height, width, scale, horizon, wanted
):
    windows = VIEW.windows(height, width, {"scale": scale, "horizon": horizon, "wanted": wanted})
    assert coverage(windows, height, width).min() >= 1
    for window in windows:
        assert window.bottom - window.top == round(height * scale)
        assert window.right - window.left == round(width * scale)
    seen = [(horizon * height - window.top) / (window.bottom - window.top) for window in windows]
    assert min(abs(place - wanted) for place in seen) <= 1 / (scale * height) + 0.01


@given(height=sides, width=sides, scale=st.floats(0.4, 0.95), horizon=horizons, wanted=horizons)
def test_the_crop_lies_inside_and_has_the_horizon_as_near_as_the_picture_allows(height, width, scale, horizon, wanted):
    (window,) = CROP.windows(height, width, {"scale": scale, "horizon": horizon, "wanted": wanted})
    assert window.top >= 0 and window.left >= 0 and window.bottom <= height and window.right <= width
    assert abs((window.left + window.right) - width) <= 1
    ideal = height * (horizon - scale * wanted)
    inside = min(max(ideal, 0), height - round(height * scale))
    assert abs(window.top - inside) <= 1


def viewed(scenes, statistics_of, sizes, horizon, trait="road_horizon"):
    columns = {"road_horizon": np.full(len(sizes), np.nan), "sky_horizon": np.full(len(sizes), np.nan)}
    columns[trait] = np.full(len(sizes), horizon)
    return statistics_of(scenes(2, seed=1).repeat(len(sizes) // 2, 1, 1, 1), size=np.asarray(sizes, float), **columns)


@pytest.mark.parametrize("trait", ["road_horizon", "sky_horizon"])
def test_a_planted_zoom_is_found(scenes, statistics_of, trait):
    """Zooming in by 1/0.8 about the row at 0.3: sizes grow, the horizon moves from 0.5 to (0.5 − 0.06)/0.8 = 0.55."""
    sizes = np.linspace(0.05, 0.2, 10)
    wide = viewed(scenes, statistics_of, sizes, 0.5, trait)
    near = viewed(scenes, statistics_of, sizes / 0.8, 0.55, trait)
    assert CROP.fit(near, wide) == {"scale": 0.8, "horizon": 0.5, "wanted": 0.55}
    (window,) = CROP.windows(1000, 1500, CROP.fit(near, wide))
    assert (window.top, window.bottom) == (60, 860)
    back = VIEW.fit(wide, near)
    assert back == {"scale": 1.25, "horizon": 0.55, "wanted": 0.5}
    (window,) = VIEW.windows(800, 1200, back)
    assert (window.top, window.bottom) == (-60, 940)


def test_a_view_that_differs_by_its_horizon_alone_is_shifted(scenes, statistics_of):
    sizes = np.full(10, 0.1)
    found = VIEW.fit(viewed(scenes, statistics_of, sizes, 0.4), viewed(scenes, statistics_of, sizes, 0.5))
    assert found == {"scale": 1.0, "horizon": 0.5, "wanted": 0.4}
    windows = VIEW.windows(100, 150, found)
    assert {(window.top, window.bottom) for window in windows} == {(10, 110), (0, 100)}
    with pytest.raises(NotApplicable, match=r"a crop of 1\.00 times the picture's side would exceed it"):
        CROP.fit(viewed(scenes, statistics_of, sizes, 0.4), viewed(scenes, statistics_of, sizes, 0.5))


def test_equal_views_are_left_alone(scenes, statistics_of):
    sizes = np.full(10, 0.1)
    with pytest.raises(NotApplicable, match=r"nearly the same size .* horizons agree \(0\.510 against 0\.500"):
        VIEW.fit(viewed(scenes, statistics_of, sizes, 0.5), viewed(scenes, statistics_of, sizes, 0.51))
    few = viewed(scenes, statistics_of, np.full(4, 0.1), 0.3)
    with pytest.raises(NotApplicable, match="fewer than 8 samples"):
        VIEW.fit(few, viewed(scenes, statistics_of, sizes, 0.5))


def test_the_views_sham_goes_the_other_way():
    parameters = {"scale": 0.8, "horizon": 0.5, "wanted": 0.4}
    assert VIEW.sham(parameters) == {"scale": 1.25, "horizon": 0.4, "wanted": 0.5}
    assert VIEW.sham(VIEW.sham(parameters)) == parameters
