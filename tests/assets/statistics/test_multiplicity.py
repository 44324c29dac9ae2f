"""Adjusted p-values against scipy and statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from assets.statistics.multiplicity import benjamini_hochberg, holm

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@pytest.mark.parametrize("count", [1, 2, 17, 60])
def test_agrees_with_scipy_and_statsmodels(count: int):
    p = np.random.default_rng(count).beta(0.4, 2, count).round(2)  # small ones, and ties
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@given(probabilities)
def test_adjusted_keep_the_order_and_never_fall(p: list[float]):
    for adjusted in (benjamini_hochberg(p), holm(p)):
        assert (adjusted >= np.asarray(p)).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
        assert (adjusted <= 1).all()
    assert (holm(p) >= benjamini_hochberg(p) - 1e-12).all()


def test_nan_stays_and_does_not_count():
    for adjust in (benjamini_hochberg, holm):
        adjusted = adjust([0.01, np.nan, 0.04])
        assert np.isnan(adjusted[1])
        assert adjusted[[0, 2]] == pytest.approx(adjust([0.01, 0.04]))
        assert np.isnan(adjust([np.nan])).all()
        assert adjust([]).size == 0


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm([1.2])
