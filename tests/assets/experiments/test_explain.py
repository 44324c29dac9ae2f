"""The explanation of a shift: planted causes are found among rivals, noise is none, few causes stand for many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.experiments.explain import LEVEL, explain, shift_between, tilted
from assets.experiments.search import Response

TRAITS = 12
UNITS = 16
PER_UNIT = 6


def names(prefix: str) -> list[str]:
    return [f"{prefix}{i // PER_UNIT:02d}" for i in range(UNITS * PER_UNIT)]


def scenes(rng: np.random.Generator) -> np.ndarray:
    """Traits of samples in units: most of the variance is one scene factor that moves all traits at once."""
    factor = np.repeat(rng.standard_normal(UNITS), PER_UNIT)[:, None]
    loadings = np.linspace(0.5, 1.5, TRAITS)
    return factor * loadings + 0.3 * rng.standard_normal((UNITS * PER_UNIT, TRAITS))


def response(name: str, direction: np.ndarray) -> Response:
    strengths = np.array([0.0, 0.5, 1.0, 2.0])
    return Response(name, (strengths,), strengths[:, None] * direction)


def directions(count: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(99).standard_normal((TRAITS, TRAITS)))[0][:count] * 2


CANDIDATES = [response(f"cause_{i}", direction) for i, direction in enumerate(directions(5))]


def explanation(rng: np.random.Generator, change: np.ndarray):
    shift = shift_between(
        scenes(rng), names("s"), scenes(rng) + change, names("t"), permutations=199, seed=int(rng.integers(1000))
    )
    return explain(shift, CANDIDATES)


@pytest.mark.parametrize("cause", range(5))
def test_a_planted_cause_is_the_first_and_only_one_with_its_strength(cause):
    found = explanation(np.random.default_rng(cause), 0.8 * directions(5)[cause])
    assert [step.experiment for step in found.steps] == [f"cause_{cause}"]
    assert found.steps[0].setting[0] == pytest.approx(0.8, abs=0.25)
    assert found.steps[0].p_value <= LEVEL
    assert found.remaining < found.misfit / 4
    assert max(found.alone, key=found.alone.get) == f"cause_{cause}"


def test_two_planted_causes_are_both_found():
    found = explanation(np.random.default_rng(0), 0.8 * directions(5)[1] + 1.2 * directions(5)[3])
    assert {step.experiment for step in found.steps} == {"cause_1", "cause_3"}


def test_a_shift_that_no_candidate_makes_stays_unexplained():
    other = np.linalg.qr(np.random.default_rng(99).standard_normal((TRAITS, TRAITS)))[0][8] * 3
    found = explanation(np.random.default_rng(3), other)
    assert not found.steps
    assert found.remaining == found.misfit > found.noise


@pytest.mark.slow
def test_noise_names_a_cause_at_most_as_often_as_said():
    from scipy import stats

    runs = 150
    named = sum(bool(explanation(np.random.default_rng(1000 + i), np.zeros(TRAITS)).steps) for i in range(runs))
    assert named <= stats.binom.ppf(0.999, runs, 2 * LEVEL)


def test_a_candidate_twice_is_its_own_rival():
    rng = np.random.default_rng(4)
    shift = shift_between(scenes(rng), names("s"), scenes(rng) + directions(5)[0], names("t"), permutations=99, seed=0)
    twins = [response("one", directions(5)[0]), response("other", directions(5)[0]), *CANDIDATES[1:]]
    [step] = explain(shift, twins).steps
    assert {step.experiment, *step.rivals} == {"one", "other"}


def test_nothing_to_explain_without_candidates_or_without_traits_that_vary():
    rng = np.random.default_rng(5)
    flat = np.ones((UNITS * PER_UNIT, TRAITS))
    assert explain(shift_between(flat, names("s"), flat, names("t"), permutations=9, seed=0), CANDIDATES).steps == ()
    shift = shift_between(scenes(rng), names("s"), scenes(rng), names("t"), permutations=9, seed=0)
    assert explain(shift, []).steps == ()


def test_missing_values_are_left_out():
    rng = np.random.default_rng(6)
    source, target = scenes(rng), scenes(rng) + 0.8 * directions(5)[2]
    source[rng.random(source.shape) < 0.2] = np.nan
    target[:, 5] = np.nan
    shift = shift_between(source, names("s"), target, names("t"), permutations=99, seed=0)
    assert not shift.known[5] and shift.known.sum() == TRAITS - 1
    assert [step.experiment for step in explain(shift, CANDIDATES).steps] == ["cause_2"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 3.0), st.floats(-5, 5))
def test_misfit_knows_no_units_of_traits(seed, scale, offset):
    rng = np.random.default_rng(seed)
    source, target = scenes(rng), scenes(rng) + directions(5)[0]
    plain = shift_between(source, names("s"), target, names("t"), permutations=9, seed=0)
    moved = shift_between(
        source * scale + offset, names("s"), target * scale + offset, names("t"), permutations=9, seed=0
    )
    scaled = [Response(r.experiment, r.axes, r.changes * scale) for r in CANDIDATES]
    assert explain(moved, scaled).misfit == pytest.approx(explain(plain, CANDIDATES).misfit, rel=1e-6)


def test_tilting_reaches_the_share_and_moves_what_goes_with_it():
    rng = np.random.default_rng(7)
    share = rng.uniform(0.1, 0.5, 300)
    traits = np.column_stack([share, 2 * share + rng.normal(0, 0.01, 300), rng.standard_normal(300)])
    found = tilted("content_sky", traits, share, [0.2, 0.4, 0.9])
    assert found.axes[0] == pytest.approx([0.2, share.mean(), 0.4])
    assert found.changes[:, 0] == pytest.approx(found.axes[0] - share.mean(), abs=1e-6)
    assert found.changes[:, 1] == pytest.approx(2 * found.changes[:, 0], abs=0.01)


def plausible(seed: int, change: np.ndarray) -> list[float]:
    """Plausible strengths of cause 2 where it alone is found; [] otherwise."""
    found = explanation(np.random.default_rng(seed), change)
    if [step.experiment for step in found.steps] != ["cause_2"]:
        return []
    return [setting[0] for setting in found.steps[0].plausible]


def test_plausible_strengths_lie_about_the_planted_one_weakest_first():
    strengths = plausible(2, 0.8 * directions(5)[2])
    assert strengths == sorted(strengths) and strengths[0] < strengths[-1]
    assert plausible(2, 0.8 * directions(5)[2]) == strengths, "drawn by the seed"


@pytest.mark.slow
def test_plausible_strengths_hold_the_planted_one_as_often_as_they_say():
    from scipy import stats

    found = [strengths for seed in range(120) if (strengths := plausible(seed, 0.8 * directions(5)[2]))]
    held = sum(strengths[0] <= 0.8 <= strengths[-1] for strengths in found)
    assert len(found) > 100 and held >= stats.binom.ppf(0.001, len(found), 0.9)


def test_strengths_are_less_sure_where_traits_disagree_on_them():
    direction = directions(5)[2]
    uneven = 0.8 * direction * np.where(np.arange(TRAITS) % 2, 1.25, 0.75)
    agreed, disputed = (
        np.mean([strengths[-1] - strengths[0] for seed in range(6) if (strengths := plausible(seed, change))])
        for change in (0.8 * direction, uneven)
    )
    assert disputed > 1.2 * agreed
