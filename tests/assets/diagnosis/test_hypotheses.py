"""Hypotheses: what supports them, in which order they come, and what is said where nothing does."""

from __future__ import annotations

import math
import re
from typing import get_args

import polars as pl
import pytest

from assets.diagnosis.hypotheses import (
    HYPOTHESES_SCHEMA,
    Hypothesis,
    appearance_hypotheses,
    content_hypotheses,
    model_hypotheses,
    rank_hypotheses,
)
from assets.diagnosis.shifts import SHIFTS_SCHEMA
from assets.traits.registry import Family, original_traits, picture_traits, shape_traits
from resources.config import CAMVID11, CITYSCAPES19


def shift(name: str, **changes):
    plain = {
        "name": name, "label": f"label of {name}", "family": "colour", "kind": "picture", "source_mean": 0.1,
        "target_mean": 0.2, "effect_size": 0.5, "ks": 0.3, "wasserstein": 0.4, "p_value": 0.01, "q_value": 0.02,
        "loss_association": math.nan, "loss_association_p": math.nan, "artefact": None,
    }  # fmt: skip
    assert changes.keys() <= plain.keys()
    return plain | changes


def ranked(hypotheses, *rows):
    found = rank_hypotheses(hypotheses, pl.DataFrame(list(rows), schema=SHIFTS_SCHEMA))
    assert dict(found.schema) == HYPOTHESES_SCHEMA
    assert found["rank"].to_list() == list(range(1, len(hypotheses) + 1))
    return {row["id"]: row for row in found.iter_rows(named=True)}


def of(name: str, *traits: str) -> Hypothesis:
    return Hypothesis(name, "colour", name, f"{name} costs loss.", traits or (name,))


def test_a_trait_that_differs_supports_and_is_named():
    row = ranked([of("a", "x", "y", "z")], shift("x"), shift("y", q_value=0.3), shift("z", q_value=0.05))["a"]
    assert row["supported"]
    assert row["reason"] == "differs: label of x, label of z"
    assert row["traits"] == ["x", "y", "z"]


def test_supported_ones_come_first_then_the_largest_effect():
    found = ranked(
        [of("huge"), of("small"), of("large"), of("none")],
        shift("huge", q_value=0.2, effect_size=9), shift("small", effect_size=0.4), shift("large", effect_size=-1.5),
    )  # fmt: skip
    assert list(found) == ["large", "small", "huge", "none"]
    assert [row["supported"] for row in found.values()] == [True, True, False, False]


def test_going_with_the_loss_weighs_more():
    found = ranked(
        [of("a"), of("b"), of("c")],
        shift("a", effect_size=0.6),
        shift("b", effect_size=0.5, loss_association=-0.9, loss_association_p=0.01),
        shift("c", effect_size=0.7, loss_association=0.1, loss_association_p=0.5),
    )  # fmt: skip
    assert list(found) == ["b", "c", "a"]


def test_equals_are_ranked_by_name():
    assert list(ranked([of("b"), of("a")], shift("a"), shift("b"))) == ["a", "b"]


def test_the_strongest_evidence_comes_first_with_its_numbers():
    row = ranked(
        [of("a", "x", "y")],
        shift("x", effect_size=0.2),
        shift("y", effect_size=-2.0, loss_association=0.42, loss_association_p=0.003),
    )["a"]  # fmt: skip
    assert row["evidence"] == [
        (
            "label of y: 0.1 in the source, 0.2 in the target (g = -2.00, q = 0.020); "
            "inside the target it goes with the loss at ρ = +0.42 (p = 0.003)"
        ),
        "label of x: 0.1 in the source, 0.2 in the target (g = +0.20, q = 0.020)",
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([shift("x", q_value=0.4), shift("y", q_value=0.123)],
         "no trait differs: label of y has the lowest q = 0.123 > 0.05"),
        ([shift("x", artefact="constant in the target", q_value=math.nan)],
         "an artefact of collection: label of x is constant in the target"),
        ([], "not measured in both sets: x, y"),
        ([shift("x", p_value=math.nan, q_value=math.nan)], "not measured in both sets: x, y"),
    ],
)  # fmt: skip
def test_what_is_not_supported_says_why(rows, reason):
    row = ranked([of("a", "x", "y")], *rows)["a"]
    assert not row["supported"]
    assert row["reason"] == reason


def test_an_artefact_does_not_support_beside_a_trait_that_does_not_differ():
    row = ranked(
        [of("a", "x", "y")], shift("x", artefact="constant in the source", p_value=0.001, q_value=math.nan),
        shift("y", q_value=0.5),
    )["a"]  # fmt: skip
    assert not row["supported"]
    assert "label of y" in row["reason"]
    assert len(row["evidence"]) == 1


def test_an_effect_that_is_no_number_ranks_last_among_equals():
    assert list(ranked([of("a"), of("b")], shift("a", effect_size=math.nan), shift("b", effect_size=0.01))) == [
        "b",
        "a",
    ]


def test_there_can_be_no_hypothesis():
    assert rank_hypotheses([], pl.DataFrame([shift("x")], schema=SHIFTS_SCHEMA)).is_empty()


def test_the_catalogue_has_names_for_assets_and_traits_that_are_measured():
    everything = [*appearance_hypotheses(), *model_hypotheses(), *content_hypotheses(CAMVID11, ["median_size_vehicle"])]
    names = [hypothesis.id for hypothesis in everything]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    measured = {trait.name for trait in [*picture_traits(), *shape_traits(), *original_traits()]}
    families = set(get_args(Family))
    assert {hypothesis.family for hypothesis in everything} <= families
    for hypothesis in appearance_hypotheses():
        assert set(hypothesis.traits) <= measured, hypothesis.id
        assert hypothesis.statement.endswith(".")


def test_content_hypotheses_are_about_classes_that_there_are():
    found = {hypothesis.id: hypothesis.traits for hypothesis in content_hypotheses(CITYSCAPES19, ["median_size_car"])}
    assert found == {
        "content_building": ("share_building",), "content_vegetation": ("share_vegetation",),
        "content_sky": ("share_sky",), "content_car": ("share_car",), "object_scale": ("median_size_car",),
        "field_of_view": ("road_horizon", "sky_horizon", "median_size_car"),
    }  # fmt: skip
    assert content_hypotheses(["lane", "rock"], []) == []
