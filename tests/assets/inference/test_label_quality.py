"""Label quality of one sample against cleanlab, and what must hold whatever the model says."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from cleanlab.segmentation.rank import get_label_quality_scores, issues_from_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.inference.label_quality import LABEL_QUALITY_SCHEMA, label_quality, suspected_pixels
from resources.datasets.base import IGNORE


def sample(seed: int, classes: int = 5, shape=(19, 26), scale: float = 2.0):
    draws = np.random.default_rng(seed)
    logits = torch.from_numpy(draws.normal(0, scale, (classes, *shape)).astype(np.float32))
    return logits, draws.integers(0, classes, shape).astype(np.uint8)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0, 30.0])
def test_score_and_suspects_are_cleanlab_s(scale):
    logits, mask = sample(3, scale=scale)
    probabilities = logits.double().softmax(0).numpy()[None]
    scores, pixels = get_label_quality_scores(mask[None].astype(int), probabilities, verbose=False)
    issues = issues_from_scores(scores, pixels)[0]
    found = label_quality(logits, mask)
    assert found.score == pytest.approx(float(scores[0]), rel=1e-5, abs=1e-9)
    assert found.suspects.tolist() == np.bincount(mask[issues], minlength=5).tolist()
    assert found.judged.tolist() == np.bincount(mask.ravel(), minlength=5).tolist()


@given(st.integers(0, 1000), st.integers(2, 8), st.floats(0, 0.95))
@settings(max_examples=30, deadline=None)
def test_ignored_pixels_count_as_if_they_were_not_there(seed, classes, ignored):
    logits, mask = sample(seed, classes)
    out = np.random.default_rng(seed).random(mask.shape) < ignored
    marked = np.where(out, IGNORE, mask).astype(np.uint8)
    found = label_quality(logits, marked)
    rest = label_quality(logits[:, torch.from_numpy(~out)][:, None], mask[~out][None])
    assert found.score == pytest.approx(rest.score, rel=1e-6)
    assert found.suspects.tolist() == rest.suspects.tolist()
    assert (found.suspects <= found.judged).all()
    where = suspected_pixels(logits, marked)
    assert where.shape == mask.shape and not where[out].any()
    assert np.bincount(marked[where], minlength=classes).tolist() == found.suspects.tolist()
    assert found.score is None or 0 <= found.score <= 1


def test_a_wrong_label_lowers_the_score_and_is_suspected():
    _, mask = sample(1)
    logits = 8 * torch.nn.functional.one_hot(torch.from_numpy(mask).long(), 5).permute(2, 0, 1).float()
    right = label_quality(logits, mask)
    wrong = mask.copy()
    wrong[:3, :4] = (wrong[:3, :4] + 1) % 5
    found = label_quality(logits, wrong)
    assert found.score < right.score
    assert right.suspects.sum() == 0
    assert found.suspects.tolist() == np.bincount(wrong[:3, :4].ravel(), minlength=5).tolist()


def test_nothing_labelled_has_no_score():
    logits, mask = sample(0)
    row = label_quality(logits, np.full_like(mask, IGNORE)).row()
    assert row == {"label_quality": None, "suspect_pixels": [0] * 5, "judged_pixels": [0] * 5}
    assert pl.DataFrame([row], schema=LABEL_QUALITY_SCHEMA).height == 1
