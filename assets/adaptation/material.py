"""What a target's adaptations are fitted on: the source's reference, the target's fit half, nothing of a report half.

Belongs here: choosing those samples, and hashing what decides a method's weights. Does not: batches (`streams.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from assets.adaptation.registry import Method
from assets.adaptation.runs import MethodRuns
from assets.adaptation.streams import Material
from assets.experiments.campaign import Campaign
from assets.inference.forward import sample_paths
from assets.inference.losses import list_column
from resources.config import AdaptationConfig
from resources.fingerprint import fingerprint
from resources.pictures import SamplePaths

CONTENT = ("sample_id", "image_hash", "mask_hash", "labels_version")


def material_of(campaign: Campaign, settings: AdaptationConfig) -> Material:
    """What methods may use: nothing of any report half."""
    reference = campaign.reference().filter("labelled")
    pixels = list_column(reference, "class_pixels").sum(0) if reference.height else np.zeros(campaign.model.class_count)
    return Material(
        model=campaign.model, engine=campaign.engine, key=campaign.key,
        reference=list(sample_paths(reference).values()),
        fit=unlabelled(fit_half(campaign)),
        labelled_fit=list(sample_paths(campaign.samples("target", report=False)).values()),
        guarded=spread(list(sample_paths(campaign.samples("holdout", report=False)).values())),
        reference_pixels=pixels, batch_size=settings.batch_size,
    )  # fmt: skip


def fit_half(campaign: Campaign) -> pl.DataFrame:
    """Manifest rows of the target's fit half, labelled or not."""
    manifest = campaign.sides.target_manifest
    usable = (pl.col("part") == "target") & ~pl.col("quarantined") & ~pl.col("report_half")
    return manifest.filter(usable).sort("sample_id")


def unlabelled(manifest: pl.DataFrame) -> list[SamplePaths]:
    """Paths without masks: what is not to see labels can't."""
    return [SamplePaths(name, Path(image), None) for name, image in manifest.select("sample_id", "image").iter_rows()]


def spread(samples: list[SamplePaths]) -> list[SamplePaths]:
    """Samples by a hash of their names, so that the first few are not of one drive."""
    return sorted(samples, key=lambda sample: fingerprint(sample.sample_id))


def runs_of(method: Method, settings: AdaptationConfig, campaign: Campaign, folder: Path, code: str) -> MethodRuns:
    """A method's runs, keyed by content and code of all that it may use."""
    target = fit_half(campaign).select(CONTENT if method.target_labels else CONTENT[:2])
    reference = campaign.reference().select(CONTENT) if method.source_labels else None
    guarded = campaign.samples("holdout", report=False).select(CONTENT) if method.id == "tent" else None
    decides = fingerprint(
        method.id, code, campaign.model.fingerprint,
        *(None if part is None else part.rows() for part in (target, reference, guarded)),
    )  # fmt: skip
    return MethodRuns(method, settings, material_of(campaign, settings), folder, decides)
