"""Pseudo labels by hand, nested shares of labels, streams that go on where they stopped."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from assets.adaptation.finetuning import scope_of
from assets.adaptation.material import material_of
from assets.adaptation.retraining import BINS, class_thresholds, confidence_counts, pseudo_labels
from assets.adaptation.streams import labelled_share
from assets.experiments.operators import NotApplicable
from resources.datasets.base import IGNORE
from resources.pictures import SamplePaths

SAMPLES = [SamplePaths(f"s{i:02d}", Path("x"), None) for i in range(40)]


def test_thresholds_keep_the_same_share_of_every_class():
    """Class 0 is surer than class 1, class 2 is never predicted: half of each is kept nevertheless."""
    confidence = torch.tensor([[0.9055, 0.8055, 0.7055, 0.6055, 0.5055, 0.4555, 0.4055, 0.3555]])
    predicted = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    counts = confidence_counts(confidence, predicted, 3)
    assert counts.shape == (3, BINS) and counts.sum(1).tolist() == [4, 4, 0]
    thresholds = class_thresholds(counts, 0.5)
    assert thresholds.tolist() == pytest.approx([0.805, 0.455, 1.0])
    labels = pseudo_labels(confidence, predicted, thresholds)
    assert labels.tolist() == [[0, 0, IGNORE, IGNORE, 1, 1, IGNORE, IGNORE]]


def test_smaller_shares_lie_within_larger_ones_and_seeds_differ():
    names = {share: {s.sample_id for s in labelled_share(SAMPLES, share, 0)} for share in (1, 5, 25, 100)}
    assert [len(names[share]) for share in (1, 5, 25, 100)] == [1, 2, 10, 40]
    assert names[1] < names[5] < names[25] < names[100]
    assert {s.sample_id for s in labelled_share(SAMPLES, 25, 1)} != names[25]


def test_a_stream_goes_on_at_any_step(world):
    material = material_of(world.campaign, world.config.adaptation)
    stream = material.source(3)
    whole = [batch.ids for batch in stream.batches(0, 12)]
    assert [batch.ids for batch in stream.batches(7, 12)] == whole[7:]
    epoch = len(material.reference)
    drawn = [name for ids in whole for name in ids][:epoch]
    assert sorted(drawn) == sorted(sample.sample_id for sample in material.reference)
    assert [batch.ids for batch in material.source(4).batches(0, 2)] != whole[:2]


def test_nothing_of_a_report_half_is_used_and_labels_are_hidden(world):
    material, sides = material_of(world.campaign, world.config.adaptation), world.campaign.sides
    halves = {
        name: dict(manifest.filter(pl.col("part") == name).select("sample_id", "report_half").iter_rows())
        for name, manifest in (("target", sides.target_manifest), ("holdout", sides.source_manifest))
    }
    for name, used in (("target", material.fit), ("target", material.labelled_fit), ("holdout", material.guarded)):
        assert used and not any(halves[name][sample.sample_id] for sample in used)
    reference = set(sides.reference["sample_id"])
    assert {sample.sample_id for sample in material.reference} == reference
    assert all(sample.mask is None for sample in material.fit)
    assert all(batch.pictures[0].mask is None for batch in material.target(0).once())


def test_scopes_name_the_parts(trained):
    names = [name for name, _ in trained.network.named_parameters()]
    head, decoder = (
        {name for name in names if scope_of(trained.network, scope)(name)} for scope in ("head", "decoder")
    )
    assert head == {name for name in names if name.startswith("segmentation_head.")}
    assert decoder == head | {name for name in names if name.startswith("decoder.")}
    plain = torch.nn.Conv2d(3, 3, 1)
    assert scope_of(plain, "all")("weight")
    with pytest.raises(NotApplicable, match="only scope 'all'"):
        scope_of(plain, "head")
