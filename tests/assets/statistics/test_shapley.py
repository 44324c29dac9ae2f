"""Shapley values: the axioms, an independent implementation, draws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assets.statistics.shapley import coalitions, shapley_values

NAMES = ("colour", "blur", "noise", "content", "geometry", "haze")


@st.composite
def games(draw, most: int = 5):
    """Players and a value for every coalition of them, each an array of three draws."""
    players = NAMES[: draw(st.integers(1, most))]
    finite = st.floats(-100, 100, allow_nan=False)
    return players, {members: draw(arrays(np.float64, 3, elements=finite)) for members in coalitions(players)}


def test_there_are_as_many_coalitions_as_subsets():
    found = list(coalitions(NAMES))
    assert len(found) == len(set(found)) == 2 ** len(NAMES)
    assert found[0] == frozenset() and found[-1] == frozenset(NAMES)
    assert [len(members) for members in found] == sorted(len(members) for members in found)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_values_are_those_of_shapiq(count: int):
    import shapiq

    players = NAMES[:count]
    rng = np.random.default_rng(count)
    value = {members: float(rng.normal()) for members in coalitions(players)}

    def game(rows: np.ndarray) -> np.ndarray:
        return np.array([value[frozenset(itertools.compress(players, row))] for row in rows])

    expected = shapiq.ExactComputer(game, n_players=count)("SV").get_n_order_values(1)
    found = shapley_values(players, value)
    np.testing.assert_allclose([found[player] for player in players], expected, atol=1e-12)


def test_values_are_means_over_all_orders_of_joining():
    rng = np.random.default_rng(0)
    players = NAMES[:4]
    value = {members: float(rng.normal()) for members in coalitions(players)}
    expected = dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for place, player in enumerate(order):
            gain = value[frozenset(order[: place + 1])] - value[frozenset(order[:place])]
            expected[player] += gain / math.factorial(4)
    found = shapley_values(players, lambda members: value[members])
    assert {player: float(worth) for player, worth in found.items()} == pytest.approx(expected)


@given(games())
def test_they_sum_to_what_all_do_together(game):
    players, value = game
    total = np.sum(list(shapley_values(players, value).values()), axis=0)
    np.testing.assert_allclose(total, value[frozenset(players)] - value[frozenset()], atol=1e-9)


@given(games(4), st.floats(-10, 10))
def test_a_player_that_adds_nothing_has_no_share(game, own):
    players, value = game
    extended = {members: value[members - {"null", "alone"}] + own * ("alone" in members)
                for members in coalitions((*players, "null", "alone"))}  # fmt: skip
    found = shapley_values((*players, "null", "alone"), extended)
    np.testing.assert_allclose(found["null"], 0, atol=1e-9)
    np.testing.assert_allclose(found["alone"], own, atol=1e-9)  # what one adds to any coalition alike is its share
    without = shapley_values(players, value)
    for player in players:
        np.testing.assert_allclose(found[player], without[player], atol=1e-9)


@given(games(4))
def test_players_that_add_the_same_have_the_same_share(game):
    players, value = game
    pair = ("one", "other")
    alike = {members: value[members - {*pair}] * (1 + len(members & {*pair}))
             for members in coalitions((*players, *pair))}  # fmt: skip
    found = shapley_values((*players, *pair), alike)
    np.testing.assert_allclose(found["one"], found["other"], atol=1e-9)


@given(games())
def test_values_of_draws_are_draws_of_values(game):
    players, value = game
    together = shapley_values(players, value)
    for draw in range(3):
        single = shapley_values(players, {members: worth[draw] for members, worth in value.items()})
        for player in players:
            assert single[player] == pytest.approx(together[player][draw], abs=1e-9)


def test_what_can_not_be_counted_is_refused():
    with pytest.raises(ValueError, match="distinct"):
        shapley_values(("a", "a"), lambda _members: 0.0)
    with pytest.raises(KeyError):
        shapley_values(("a", "b"), {frozenset(): 0.0})
    assert shapley_values((), {frozenset(): 1.0}) == {}
