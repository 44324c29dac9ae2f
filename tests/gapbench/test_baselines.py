"""Baselines: each finds what it is made to find, and only that; nothing said where nothing can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gapbench.baselines import CaseTables, baseline_answers, domain_classifier, ranked, sliceline

TRAITS = ["shifted", "costly", "idle", "shared", "constant", "missing", "metadata_camera"]
HYPOTHESES = {
    "of_idle": ("idle",), "of_many": ("shifted", "costly", "shared"), "of_shift": ("shifted", "idle"),
    "of_cost": ("costly", "idle"), "white_balance": ("missing", "constant"), "of_nothing": (),
}  # fmt: skip
BY_SHIFT = ("effect_size", "psi", "domain_classifier")
BY_LOSS = ("mutual_information", "worst_samples", "loss_correlation", "sliceline")


def tables(seed: int = 0, n: int = 120) -> CaseTables:
    """The trait 'shifted' differs between the sides, 'costly' goes with the loss of both."""
    rng = np.random.default_rng(seed)
    units = [f"u{i // 10}" for i in range(n)]
    holdout, target = rng.normal(size=(2, n, len(TRAITS)))
    target[:, 0] += 1.5
    for side in (holdout, target):
        side[:, 4], side[:, 5], side[:, 6] = 3.0, np.nan, 0.0
        side[::9, 1] = np.nan
    losses = [0.3 + 0.1 * np.nan_to_num(side[:, 1]) + 0.02 * rng.normal(size=n) for side in (holdout, target)]
    return CaseTables(holdout, target, *losses, units, [f"t{unit}" for unit in units], TRAITS, HYPOTHESES, seed)


@pytest.fixture(scope="module")
def answers() -> dict[str, list[str]]:
    return baseline_answers(tables())


@pytest.mark.parametrize(("names", "first"), [(BY_SHIFT, "of_shift"), (BY_LOSS, "of_cost")])
def test_the_planted_trait_is_named_by_its_most_specific_hypothesis(answers, names, first):
    assert {name: answers[name][0] for name in names} == dict.fromkeys(names, first)


def test_constant_and_missing_traits_say_nothing(answers):
    for name in (*BY_SHIFT, *BY_LOSS):
        assert not {"white_balance", "of_nothing", "metadata_camera"} & set(answers[name])


def test_side_information_that_differs_is_an_answer_of_its_own():
    case = tables()
    case.target[:, 6] = 1.0
    found = baseline_answers(case)
    assert found["effect_size"][0] == found["domain_classifier"][0] == "metadata_camera"
    assert all("metadata_camera" not in found[name] for name in BY_LOSS)


def test_over_both_sides_a_trait_that_moves_with_the_gap_goes_with_the_loss():
    case = tables()
    case.target[:, 0] += 2
    found = baseline_answers(replace(case, target_loss=case.target_loss + 1))
    assert found["pooled_loss_correlation"][0] == "of_shift"
    assert found["loss_correlation"][0] == "of_cost"


def test_random_hangs_on_the_seed_and_colour_comes_first(answers):
    case = tables()
    assert answers["random"] == baseline_answers(case)["random"]
    assert answers["random"] != baseline_answers(replace(case, seed=1))["random"]
    assert answers["always_colour"][0] == "white_balance"
    assert sorted(answers["random"]) == sorted(answers["always_colour"]) == sorted(HYPOTHESES)


def test_nothing_of_a_table_is_asked_of_where_there_is_none():
    empty = replace(tables(), holdout=np.full((120, 7), np.nan), target=np.full((120, 7), np.nan))
    found = baseline_answers(empty)
    assert all(found[name] == [] for name in (*BY_SHIFT, *BY_LOSS))


def test_scores_without_a_number_are_left_out_and_endless_ones_lead():
    scores = np.array([np.inf, 2.0, np.nan, -1.0, 0.0, np.nan, np.nan])
    assert ranked(scores, tables()) == ["of_shift", "of_many", "of_cost"]


def test_the_classifier_is_judged_on_units_that_it_has_not_seen():
    case = tables()
    rng = np.random.default_rng(5)
    for side in (case.holdout, case.target):
        side[:, 2] = np.repeat(rng.normal(0, 3, 12), 10)
    case.target[:, 0] -= 0.7
    scores = domain_classifier(case)
    assert scores[2] < 0.1 * scores[0]


def test_the_best_slice_is_the_planted_pair():
    case = tables()
    case.target[:, 1] = np.random.default_rng(1).normal(size=120)
    inside = (case.target[:, 0] > np.quantile(case.target[:, 0], 2 / 3)) & (
        case.target[:, 3] <= np.quantile(case.target[:, 3], 1 / 3)
    )
    case = replace(case, target_loss=1.0 + 2.0 * inside)
    scores = sliceline(case)
    share, mean = inside.mean(), 1 + 2 * inside.mean()
    assert inside.sum() >= 10
    assert scores[0] == scores[3] == pytest.approx(0.95 * (3 / mean - 1) - 0.05 * (1 / share - 1))
    assert scores[0] > np.nanmax(scores[[1, 2]])


def test_slices_score_as_the_published_search_does():
    slicefinder = pytest.importorskip("sliceline.slicefinder")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(90, 7))
        loss = np.abs(rng.normal(size=90)) + (values[:, 2] > 0.4) * (values[:, 5] < 0)
        thirds = np.stack([np.searchsorted(np.quantile(c, [1 / 3, 2 / 3]), c) for c in values.T], axis=1) + 1
        theirs = slicefinder.Slicefinder(alpha=0.95, k=1, max_l=2, min_sup=10, verbose=False).fit(thirds, loss)
        scores = sliceline(replace(tables(), target=values, target_loss=loss))
        assert scores.max() == pytest.approx(theirs.top_slices_statistics_[0]["slice_score"])
        literals = [part is not None for part in theirs.top_slices_[0]]
        assert np.flatnonzero(np.isclose(scores, scores.max())).tolist() == np.flatnonzero(literals).tolist()
