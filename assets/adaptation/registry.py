"""The methods of adaptation: what each is, who proposed it, what it needs, which variants of it are tried.

Belongs here: their descriptions. Does not: what they do (their families' modules), anything heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["statistics", "alignment", "retraining", "finetuning"]
SCOPES = ("head", "decoder", "all")
LABEL_SHARES = (1, 5, 25, 100)
"""Per cent of the labelled fit half that fine-tuning is given."""


@dataclass(frozen=True)
class Variant:
    """One way of running a method; `scope` and `label_share` (per cent) are fine-tuning's."""

    id: str
    title: str
    scope: str = "all"
    label_share: int = 100


@dataclass(frozen=True)
class Method:
    """A method. `random`: whether seeds give different results; `schedule`: steps as a multiple of the config's."""

    id: str
    title: str
    family: Family
    paper: str
    description: str
    source_labels: bool = False
    target_labels: bool = False
    random: bool = True
    schedule: float = 1.0
    variants: tuple[Variant, ...] = (Variant("default", ""),)


def _fine_tuning_variants() -> tuple[Variant, ...]:
    told = {"head": "the head", "decoder": "decoder and head", "all": "all weights"}
    return tuple(
        Variant(f"{scope}_{share:03d}", f"{told[scope]} on {share}% of the labels", scope, share)
        for scope in SCOPES for share in LABEL_SHARES
    )  # fmt: skip


METHODS = {
    method.id: method
    for method in (
        Method(
            "batch_norm", "batch-norm re-estimation", "statistics", "Schneider et al. 2020",
            "Batch-norm statistics re-estimated on the target's fit half, the source's kept as a prior worth 16 "
            "pictures.", random=False,
        ),
        Method(
            "tent", "entropy minimisation (TENT)", "statistics", "Wang et al. 2021",
            "Scale and shift of batch norm, moved in one pass over the fit half so that predictions become more "
            "certain; it stops and goes back when guarded source pictures lose.", source_labels=True,
        ),
        Method(
            "class_prior", "class-prior correction", "statistics", "Saerens et al. 2002",
            "How frequent each class is on the fit half, estimated from the predictions by expectation maximisation "
            "and put into the last layer's bias.", source_labels=True, random=False,
        ),
        Method(
            "coral", "aligned covariances (CORAL)", "alignment", "Sun & Saenko 2016",
            "Trained on source labels while the covariance of decoder features on the target is drawn to the source's.",
            source_labels=True,
        ),
        Method(
            "fda", "source in the target's amplitudes (FDA)", "retraining", "Yang & Soatto 2020",
            "Retrained on source pictures whose low-frequency amplitudes are those of target pictures.",
            source_labels=True,
        ),
        Method(
            "self_training", "self-training on pseudo labels", "retraining", "Zou et al. 2018",
            "Trained on source labels and on the model's own most confident predictions on the target, equally "
            "selective for each class.", source_labels=True,
        ),
        Method(
            "adversarial", "domain-adversarial training (DANN)", "alignment", "Ganin et al. 2016",
            "Trained on source labels while the deepest encoder features are made useless for telling target from "
            "source, by a reversed gradient.", source_labels=True,
        ),
        Method(
            "advent", "adversarial entropy (AdvEnt)", "alignment", "Vu et al. 2019",
            "Trained on source labels while maps of weighted self-information on the target are made to look like the "
            "source's.", source_labels=True,
        ),
        Method(
            "fine_tuning", "fine-tuning on target labels", "finetuning", "–",
            "Head, decoder or all weights trained on 1, 5, 25 and 100% of the labelled fit half.",
            target_labels=True, variants=_fine_tuning_variants(),
        ),
        Method(
            "oracle", "target-trained oracle", "finetuning", "–",
            "All weights trained on the whole labelled fit half and the source's reference, for twice the steps. It "
            "starts from the source's weights: training from nothing on so few pictures would measure their number. "
            "What it does not close either is hard data.",
            source_labels=True, target_labels=True, schedule=2.0,
        ),
    )
}  # fmt: skip

FAMILY_CODE = {
    "statistics": ("assets.adaptation.statistics", "assets.experiments.model_side"),
    "alignment": ("assets.adaptation.alignment", "assets.adaptation.losses"),
    "retraining": ("assets.adaptation.retraining", "assets.adaptation.losses"),
    "finetuning": ("assets.adaptation.finetuning", "assets.adaptation.losses"),
}
SHARED_CODE = ("assets.adaptation.material", "assets.adaptation.networks", "assets.adaptation.registry",
               "assets.adaptation.runs",
               "assets.adaptation.streams", "assets.adaptation.training", "assets.inference.training",
               "resources.model", "resources.pictures")  # fmt: skip


def training_code(method: Method) -> tuple[str, ...]:
    """Modules that decide a method's weights."""
    return (*SHARED_CODE, *FAMILY_CODE[method.family])
