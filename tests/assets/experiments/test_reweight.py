"""Re-weighting reaches the wanted shares exactly, and a loss under weights is what weighting every pixel gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assets.experiments.operators import NotApplicable
from assets.experiments.recipe import rake
from assets.experiments.reweight import LIMIT, ClassShare, mean_class_losses, recomposed_losses, weighted_losses


def shares(pixels: np.ndarray) -> np.ndarray:
    return pixels / pixels.sum(1, keepdims=True)


def counts(rng: np.random.Generator, samples: int, weights: list[float]) -> np.ndarray:
    """Labelled pixels of each sample and class, mean shares near the weights."""
    return np.stack([rng.multinomial(5000, rng.dirichlet(np.array(weights) * 8)) for _ in range(samples)]).astype(float)


@given(seed=st.integers(0, 10**6), wanted=st.floats(0.05, 0.7), present=st.floats(0.05, 0.7))
def test_the_mean_share_becomes_the_wanted_one(seed, wanted, present):
    assume(abs(wanted - present) > 0.01)
    rng = np.random.default_rng(seed)
    rest = lambda share: [share, (1 - share) / 2, (1 - share) / 2]  # noqa: E731
    destination, origin = counts(rng, 30, rest(wanted)), counts(rng, 25, rest(present))
    operator = ClassShare(0)
    try:
        found = operator.fit(destination, origin)
    except NotApplicable:
        assume(False)
    weighted = origin * operator.weights(3, found)
    reached, aim = shares(weighted)[:, 0].mean(), shares(destination)[:, 0].mean()
    assert reached == pytest.approx(aim, abs=1e-4) or found["odds"] in (LIMIT, round(1 / LIMIT, 6))
    assert found["wanted_share"] == pytest.approx(aim, abs=1e-6)
    # the other classes keep their proportions
    assert weighted[:, 1:] == pytest.approx(origin[:, 1:])


positive = st.floats(0.01, 10)


@given(
    loss=arrays(np.float64, (4, 3), elements=st.floats(0, 5)),
    pixels=arrays(np.int64, (4, 3), elements=st.integers(0, 40)),
    weights=arrays(np.float64, 3, elements=positive),
)
def test_losses_under_weights_are_those_of_weighted_pixels(loss, pixels, weights):
    """Each pixel of class c costs the class's mean loss; the naive mean runs over pixels."""
    found = weighted_losses(loss * pixels, pixels.astype(float), weights)
    for i in range(4):
        each = [(weights[c], loss[i, c]) for c in range(3) for _ in range(pixels[i, c])]
        if not each:
            assert np.isnan(found[i])
            continue
        mass, cost = np.array(each).T
        assert found[i] == pytest.approx(np.average(cost, weights=mass), rel=1e-9, abs=1e-12)


@given(factor=positive, seed=st.integers(0, 100))
def test_only_ratios_of_weights_count(factor, seed):
    rng = np.random.default_rng(seed)
    loss, pixels, weights = rng.random((5, 3)), rng.integers(1, 50, (5, 3)).astype(float), rng.uniform(0.1, 5, 3)
    assert weighted_losses(loss, pixels, weights * factor) == pytest.approx(weighted_losses(loss, pixels, weights))


def test_reasons_for_not_applying():
    rng = np.random.default_rng(1)
    some, other = counts(rng, 20, [0.3, 0.3, 0.4]), counts(rng, 20, [0.1, 0.5, 0.4])
    absent = some.copy()
    absent[:, 0] = 0
    for destination, origin in ((some, absent), (absent, some)):
        with pytest.raises(NotApplicable, match="too few pixels of the class on a side"):
            ClassShare(0).fit(destination, origin)
    with pytest.raises(NotApplicable, match="the mean share is the same on both sides"):
        ClassShare(0).fit(some, some)
    assert ClassShare(0).fit(some, other)["odds"] > 1
    assert ClassShare(0).fit(other, some)["odds"] < 1


@given(seed=st.integers(0, 10**6))
def test_shams_move_as_much_mass_between_other_classes(seed):
    rng = np.random.default_rng(seed)
    destination = counts(rng, 20, [0.35, 0.15, 0.2, 0.25, 0.05])
    origin = counts(rng, 25, [0.2, 0.2, 0.25, 0.3, 0.05])
    # a class that few pictures show can't take up as much
    origin[3:, 4] = 0
    operator = ClassShare(0)
    moved = shares(destination)[:, 0].mean() - shares(origin)[:, 0].mean()
    assume(abs(moved) > 0.02)
    found = operator.shams(destination, origin)
    assert {1, 2, 3} & {sham["class_index"] for sham in found}
    for sham in found:
        other = sham["class_index"]
        assert other != 0
        reached = shares(origin * operator.weights(5, sham))[:, other].mean() - shares(origin)[:, other].mean()
        assert reached == pytest.approx(moved, abs=0.101 * abs(moved))


def test_raking_brings_several_shares_at_once():
    rng = np.random.default_rng(4)
    destination = counts(rng, 40, [0.30, 0.10, 0.25, 0.35])
    origin = counts(rng, 30, [0.15, 0.25, 0.20, 0.40])
    weights = rake([ClassShare(0), ClassShare(1)], destination, origin)
    reached, aim = shares(origin * weights).mean(0), shares(destination).mean(0)
    assert reached[:2] == pytest.approx(aim[:2], abs=0.003)
    assert weights[2] == weights[3] == 1
    # one after the other, each fitted alone, misses
    alone = np.ones(4)
    for index in (0, 1):
        alone = alone * ClassShare(index).weights(4, ClassShare(index).fit(destination, origin))
    assert np.abs(shares(origin * alone).mean(0) - aim)[:2].max() > 0.005


def test_raking_leaves_an_absent_class_alone():
    rng = np.random.default_rng(5)
    destination, origin = counts(rng, 20, [0.3, 0.3, 0.4]), counts(rng, 20, [0.2, 0.4, 0.4])
    origin[:, 2] = 0
    weights = rake([ClassShare(2), ClassShare(0)], destination, origin)
    assert weights[2] == 1
    assert shares(origin * weights)[:, 0].mean() == pytest.approx(shares(destination)[:, 0].mean(), abs=0.003)


def test_recomposed_losses_are_the_mean_of_both_sets_views() -> None:
    pixels = np.array([[50.0, 50.0], [80.0, 20.0]])
    loss_sum = np.array([[10.0, 50.0], [8.0, 30.0]])
    weights = np.array([3.0, 1.0])
    other = np.array([0.1, 0.5])
    shares = pixels / pixels.sum(1, keepdims=True)
    moved = pixels * weights / (pixels * weights).sum(1, keepdims=True)
    before = loss_sum.sum(1) / pixels.sum(1)
    own_view = (loss_sum * weights).sum(1) / (pixels * weights).sum(1)
    other_view = before + ((moved - shares) * other).sum(1)
    assert recomposed_losses(loss_sum, pixels, weights, other) == pytest.approx((own_view + other_view) / 2)
    assert recomposed_losses(loss_sum, pixels, weights, None) == pytest.approx(own_view)
    assert recomposed_losses(loss_sum, pixels, np.ones(2), other) == pytest.approx(before)


def test_mean_class_losses_leave_absent_classes_open() -> None:
    means = mean_class_losses(np.array([[2.0, 0.0], [4.0, 0.0]]), np.array([[10.0, 0.0], [20.0, 0.0]]))
    assert means[0] == pytest.approx(0.2) and np.isnan(means[1])
