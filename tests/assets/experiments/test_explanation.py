"""What an explanation says of experiments, and what it rests on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from assets.experiments.explain import Response
from assets.experiments.explanation import explained, not_explained, probed_ids, responses_as_values
from assets.traits.registry import all_traits
from resources.config import StatisticsConfig

CLASSES = ("road", "sky")
TRAITS = all_traits(CLASSES, [])
TITLES = {"exposure": "exposure and gamma", "saturation": "saturation"}
NAMES = ["brightness", "contrast", "saturation", "share_sky"]
SETTINGS = StatisticsConfig(permutations=199, bootstrap=100, noise_floor_draws=10)


def table(seed: int, change: dict[str, float], *, from_label: bool = True) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(0.4, 0.05, 80) + change.get(name, 0.0) for name in NAMES}
    units = [f"{seed}-{i // 5}" for i in range(80)]
    return pl.DataFrame(
        {"sample_id": [f"{i:03}" for i in range(80)], "unit": units, "from_label": from_label, **columns}
    )


@pytest.fixture
def stored() -> dict:
    strengths = np.array([0.0, 0.5, 1.0])
    directions = {"exposure": [-0.1, -0.02, 0.0, 0.0], "saturation": [0.0, 0.0, 0.1, 0.0]}
    found = [Response(name, (strengths,), strengths[:, None] * np.array(row), ("amount",))
             for name, row in directions.items()]  # fmt: skip
    return responses_as_values(found, NAMES)


def ask(stored: dict, change: dict[str, float], *, from_label: bool = True, ids=("exposure", "saturation")) -> dict:
    return explained(stored, TRAITS, table(1, {}), table(2, change, from_label=from_label), list(ids), SETTINGS)


def test_the_cause_is_named_and_the_rest_is_not_worth_a_forward(stored):
    found = ask(stored, {"brightness": -0.1, "contrast": -0.02})
    [step] = found["steps"]
    assert (step["experiment"], step["parameters"]) == ("exposure", ("amount",))
    assert step["plausible"][0][0] <= step["setting"][0] <= step["plausible"][-1][0]
    assert not_explained(found, "exposure", TITLES) is None
    assert "explained by exposure and gamma (" in not_explained(found, "saturation", TITLES)
    assert not_explained(found, "histogram", TITLES) is None, "what has no response is for the loss to decide"


def test_an_unexplained_shift_skips_nothing(stored):
    found = ask(stored, {"contrast": 0.2})
    assert not found["steps"] and found["remaining"] > found["noise"]
    assert not_explained(found, "saturation", TITLES) is None


def test_content_is_a_candidate_from_the_source_alone(stored):
    found = ask(stored, {"share_sky": 0.08}, ids=("exposure", "saturation", "content_sky"))
    assert found["steps"][0]["experiment"] == "content_sky"
    assert found["steps"][0]["setting"][0] == pytest.approx(0.48, abs=0.05)


def test_traits_of_predicted_masks_are_left_out(stored):
    found = ask(stored, {"share_sky": 0.3}, from_label=False, ids=("exposure", "content_sky"))
    assert "share_sky" not in found["traits"] and not found["steps"] and found["kinds"] == ["picture"]


def test_probed_pictures_are_of_the_fit_half_and_stay_put():
    rows = pl.DataFrame(
        {"sample_id": [f"{i:03}" for i in range(60)], "part": "holdout", "labelled": True, "quarantined": False,
         "report_half": [i % 2 == 0 for i in range(60)]}
    )  # fmt: skip
    chosen = probed_ids(rows)
    assert len(chosen) == len(set(chosen)) and all(int(name) % 2 for name in chosen)
    assert probed_ids(rows.filter(pl.col("sample_id") != chosen[0]))[: len(chosen) - 1] == chosen[1:]
