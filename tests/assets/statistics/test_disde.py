"""The DISDE split: populations with one term only, closed forms, the sum, intervals that cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from assets.statistics.disde import disde, ridge_logistic, target_probability

EASY, HARD = 0.3, 1.5


def units(count: int, size: int = 4) -> list[str]:
    return [f"u{i // size}" for i in range(count)]


def regions(share: float, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Latents of two regions far apart, a share of them in the hard one; and which those are."""
    hard = np.arange(count) % 100 < round(100 * share)
    hard = rng.permutation(hard)
    latents = np.column_stack([np.where(hard, 4.0, -4.0), np.zeros(count)]) + 0.5 * rng.standard_normal((count, 2))
    return latents, hard


def split(source_share: float, target_share: float, *, harder: float = 0.0, count: int = 400, seed: int = 0):
    rng = np.random.default_rng(seed)
    a, hard_a = regions(source_share, count, rng)
    b, hard_b = regions(target_share, count, rng)
    losses = [np.where(hard, HARD, EASY) + 0.05 * rng.standard_normal(count) for hard in (hard_a, hard_b)]
    return disde(a, losses[0], units(count), b, losses[1] + harder, units(count), draws=200, rng=rng)


@pytest.mark.parametrize(
    ("shares", "harder", "expected"),
    [
        ((0.5, 1.0), 0.0, (0.5 * (HARD - EASY), 0, 0)),  # the target shows the source's hard pictures only
        ((0.5, 0.5), 0.4, (0, 0.4, 0)),  # the same pictures, another loss
        ((0.0, 0.5), 0.0, (0, 0, 0.5 * (HARD - EASY))),  # half of the target is hard and new
    ],
)
def test_a_gap_of_one_kind_is_in_its_own_term(shares, harder, expected):
    found = split(*shares, harder=harder)
    terms = (found.shared_inputs, found.outcome, found.unseen_inputs)
    assert [term.value for term in terms] == pytest.approx(expected, abs=0.05)
    for term, truth in zip(terms, expected, strict=True):
        assert term.ci95[0] - 0.03 < truth < term.ci95[1] + 0.03


def test_overlapping_sets_give_the_closed_form_of_the_shared_density():
    """p = (0.8, 0.2), q = (0.5, 0.5): s ∝ p·q/(p + q)."""
    p, q = np.array([0.8, 0.2]), np.array([0.5, 0.5])
    shared = p * q / (p + q)
    hard_share = shared[1] / shared.sum()
    found = split(0.2, 0.5, harder=0.1, count=1200)
    assert found.shared_inputs.value == pytest.approx((hard_share - 0.2) * (HARD - EASY), abs=0.03)
    assert found.outcome.value == pytest.approx(0.1, abs=0.03)
    assert found.unseen_inputs.value == pytest.approx((0.5 - hard_share) * (HARD - EASY), abs=0.03)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(8, 40), st.integers(8, 40), st.integers(1, 12), st.integers(1, 4),
    st.floats(0, 3), st.integers(0, 1000),
)  # fmt: skip
def test_the_terms_sum_to_the_gap(n, m, width, size, distance, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, width)), rng.standard_normal((m, width)) + distance
    losses = rng.gamma(2, 1, n), rng.gamma(3, 1, m)
    found = disde(a, losses[0], units(n, size), b, losses[1], units(m, size), draws=20, rng=rng)
    total = found.shared_inputs.value + found.outcome.value + found.unseen_inputs.value
    assert total == pytest.approx(losses[1].mean() - losses[0].mean(), abs=1e-10)
    assert found.total == pytest.approx(total, abs=1e-10)
    assert 0 < found.effective_samples[0] <= n + 1e-9
    assert 0 < found.effective_samples[1] <= m + 1e-9


def test_without_a_difference_each_term_s_interval_covers_zero_about_as_often_as_it_says():
    covered = np.zeros(3)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        latents = rng.standard_normal((2, 80, 5))
        losses = 1 + 0.5 * latents[:, :, 0] + 0.3 * rng.standard_normal((2, 80))
        found = disde(latents[0], losses[0], units(80, 2), latents[1], losses[1], units(80, 2), draws=100, rng=rng)
        terms = (found.shared_inputs, found.outcome, found.unseen_inputs)
        covered += [term.ci95[0] <= 0 <= term.ci95[1] for term in terms]
    assert (covered / 40 >= 0.85).all(), covered


def test_intervals_resample_whole_units():
    rng = np.random.default_rng(3)
    level = np.repeat(rng.standard_normal(10), 20)
    a, b = rng.standard_normal((200, 3)), rng.standard_normal((200, 3))
    losses = level + 0.01 * rng.standard_normal(200), np.zeros(200)
    wide = disde(a, losses[0], units(200, 20), b, losses[1], units(200, 20), draws=300, rng=rng)
    narrow = disde(a, losses[0], units(200, 1), b, losses[1], units(200, 1), draws=300, rng=rng)
    widths = [found.outcome.ci95[1] - found.outcome.ci95[0] for found in (wide, narrow)]
    assert widths[0] > 2 * widths[1]


@pytest.mark.parametrize(("penalty", "distance"), [(0.01, 0.5), (1.0, 1.0), (10.0, 6.0)])  # the last is separable
def test_fits_are_those_of_scikit_learn(penalty: float, distance: float):
    rng = np.random.default_rng(7)
    vectors = np.concatenate([rng.standard_normal((40, 3)), rng.standard_normal((90, 3)) + distance])
    labels = np.repeat([0, 1], [40, 90])
    times = np.concatenate([np.ones((1, 130)), rng.integers(0, 3, (3, 130))]).astype(float)
    for weights, row in zip(times, ridge_logistic(vectors, labels, times, penalty), strict=True):
        mass = np.array([weights[labels == 0].sum(), weights[labels == 1].sum()])
        balanced = weights * weights.sum() / (2 * mass[labels])
        fit = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000).fit(vectors, labels, balanced)
        np.testing.assert_allclose(row, [*fit.coef_[0], *fit.intercept_], atol=2e-4)


def test_probabilities_are_those_of_a_logistic_regression_that_never_saw_the_unit():
    rng = np.random.default_rng(4)
    vectors = np.concatenate([rng.standard_normal((300, 2)), rng.normal((1, 0), 1, (600, 2))])
    labels = np.repeat([0, 1], [300, 600])
    names = np.array([f"{label}/{i // 3}" for i, label in enumerate(labels)])
    chance = target_probability(vectors, labels, names, rng)[0]
    plain = LogisticRegression(C=1e6, class_weight="balanced").fit(vectors, labels).predict_proba(vectors)[:, 1]
    assert np.corrcoef(chance, plain)[0, 1] > 0.99
    assert np.abs(chance - plain).mean() < 0.03
    truth = 1 / (1 + np.exp(0.5 - vectors[:, 0]))  # log q/p of two unit Gaussians at distance 1
    assert np.abs(chance - truth).mean() < 0.05


def test_pictures_of_one_unit_do_not_teach_the_classifier_each_other():
    """Every unit has its own place and nothing tells the sets apart: memory would separate them perfectly."""
    rng = np.random.default_rng(5)
    places = np.repeat(rng.standard_normal((24, 30)) * 3, 10, axis=0) + 0.01 * rng.standard_normal((240, 30))
    labels = np.repeat([0, 1], 120)
    names = np.array([f"{label}/{i // 10}" for i, label in enumerate(labels)])
    chance = target_probability(places, labels, names, rng)[0]
    right = np.mean((chance > 0.5) == labels)
    assert 0.2 < right < 0.8


def test_what_can_not_be_split_is_refused():
    rng = np.random.default_rng(6)
    a, loss = rng.standard_normal((10, 2)), np.ones(10)
    with pytest.raises(ValueError, match="independent units"):
        disde(a, loss, ["one"] * 10, a, loss, units(10), draws=10, rng=rng)
    with pytest.raises(ValueError, match="length"):
        disde(a, loss[:-1], units(10), a, loss, units(10), draws=10, rng=rng)
    with pytest.raises(ValueError, match="finite"):
        disde(a * np.nan, loss, units(10), a, loss, units(10), draws=10, rng=rng)
