"""`domain-gap check`: a doctor that looks at config, data, labels and model before anything runs.

Belongs here: what is looked at, in which order, and what to do about what was found. Does not: the measuring (readers,
`assets/inference/sanity.py`), printing (`cli.py`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from assets.ingestion.manifest import parts_of
from resources.config import DatasetConfig, GapConfig, SourceConfig
from resources.datasets import open_reader
from resources.datasets.base import IGNORE, Reader, SampleFile, as_rgb, decode
from resources.errors import ConfigError, DatasetError, ModelError, UnreadableSample
from resources.pictures import Picture, to_input

if TYPE_CHECKING:
    from assets.inference.sanity import Compared, Sanity

Level = Literal["fine", "note", "wrong"]

LOOKED_AT = 24
"""Samples of a data set that are opened, spread over it."""
PICTURES_FOR_MODEL = 48
"""Holdout pictures that pass the model: exchanged colours may cost a few per cent, which few pictures don't tell."""
SECONDS_FOR_MODEL = 30.0
SHOWN = 6
FEW_GROUPS = 6
FEW_SAMPLES = 24
MUCH_VOID = 0.4
STRETCHED = 1.25
NAMED_BY_TRAITS = (("road",), ("sky",), ("car", "vehicle"))
"""Classes that traits find by their name."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is about, how it stands, and what to do where it is not fine.

    `refused`: nothing runs before this is mended.
    """

    about: str
    level: Level
    text: str
    fix: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Opened:
    """One sample, opened: the picture's size, and its mask as classes, or why one of them can't be used."""

    sample: SampleFile
    size: tuple[int, int] | None
    mask: Any
    reason: str | None


@dataclass
class Diagnosis:
    """All findings, in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> list[Finding]:
        """What has to be mended."""
        return [finding for finding in self.findings if finding.level == "wrong"]

    @property
    def refused(self) -> bool:
        """Whether a run would end with exit code 2."""
        return any(finding.refused for finding in self.findings)

    def as_values(self, next_command: str) -> dict[str, Any]:
        """JSON-like: `ok`, every finding, the next command."""
        return {"ok": not self.wrong, "findings": [asdict(one) for one in self.findings], "next": next_command}


def diagnose(settings: GapConfig) -> Iterator[Finding]:
    """Everything that can be looked at in less than a minute, finding by finding; errors become findings."""
    yield from _store(settings)
    classes: dict[str, set[str]] = {}
    for dataset in settings.datasets:
        key = "source" if dataset is settings.source else dataset.name
        try:
            yield from _dataset(settings, dataset, classes.setdefault(key, set()))
        except (DatasetError, ConfigError) as error:
            yield Finding(f"data {dataset.name}", "wrong", str(error), refused=True)
        except UnreadableSample as error:
            yield Finding(f"data {dataset.name}", "wrong", str(error), "look at the file, or leave it out by 'select'")
    yield from _classes(settings, classes)
    yield from _modules(settings)
    try:
        yield from _model(settings)
    except (ModelError, ConfigError) as error:
        yield Finding("model", "wrong", str(error), refused=True)
    try:
        yield from _engine(settings)
    except ConfigError as error:
        yield Finding("compute", "wrong", str(error), refused=True)


def _store(settings: GapConfig) -> Iterator[Finding]:
    if "://" in settings.store:
        yield Finding("store", "fine", settings.store)
        return
    place = Path(settings.store)
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding("store", "wrong", f"{settings.store}: no permission to write there", "set 'store' or --store")
    else:
        yield Finding("store", "fine", settings.store)


def _dataset(settings: GapConfig, dataset: DatasetConfig, classes: set[str]) -> Iterator[Finding]:
    about, reader = f"data {dataset.name}", open_reader(settings, dataset)
    samples = reader.scan()
    labelled = [sample for sample in samples if sample.mask is not None]
    groups = {sample.group for sample in samples}
    opened = [_open(reader, sample) for sample in spread(labelled or samples, LOOKED_AT)]
    size = next((one.size for one in opened if one.size is not None), None)
    if size is None:
        reason = opened[0].reason
        yield Finding(about, "wrong", f"none of {len(opened)} samples can be used: {reason}", _fix_of(reason or ""))
        return
    yield Finding(
        about, "fine",
        f"{len(samples)} pictures ({len(labelled)} with masks, {_counted(len(groups), 'group')}), "
        f"first is {size[1]}×{size[0]}",
    )  # fmt: skip
    yield from _unusable(about, opened)
    yield from _sizes(about, settings, opened)
    yield from _grouping(about, dataset, samples)
    yield from _labels(about, settings, dataset, [one for one in opened if one.mask is not None], classes)
    if isinstance(dataset, SourceConfig):
        yield from _parts(about, dataset, samples)


def spread(samples: Sequence[SampleFile], count: int) -> list[SampleFile]:
    """Some samples, spread over groups and within each, in the data set's order."""
    ordered = sorted(samples, key=lambda sample: (sample.group, sample.sample_id))
    positions = sorted({round(i) for i in np.linspace(0, len(ordered) - 1, min(count, len(ordered)))})
    return sorted((ordered[i] for i in positions), key=lambda sample: sample.sample_id)


def _open(reader: Reader, sample: SampleFile) -> Opened:
    try:
        height, width = as_rgb(decode(sample.image)).shape[:2]
        mask = reader.read_mask(sample.mask) if sample.mask is not None else None
    except UnreadableSample as error:
        return Opened(sample, None, None, str(error))
    if mask is not None and mask.shape != (height, width):
        shapes = f"the mask is {mask.shape[1]}×{mask.shape[0]}, the picture {width}×{height}"
        return Opened(sample, None, None, f"{sample.sample_id}: {shapes}")
    return Opened(sample, (height, width), mask, None)


def _unusable(about: str, opened: Sequence[Opened]) -> Iterator[Finding]:
    reasons = [one.reason for one in opened if one.reason is not None]
    if reasons:
        yield Finding(
            about, "wrong", f"{len(reasons)} of {len(opened)} samples can't be used, the first: {reasons[0]}",
            _fix_of(reasons[0]),
        )  # fmt: skip


def _fix_of(reason: str) -> str:
    if "unknown label" in reason:
        return "add these codes to the set's 'labels' (void for what does not count)"
    if "colour" in reason or "ids are expected" in reason:
        return "map colours by quoted '#RRGGBB', ids by numbers, in the set's 'labels'"
    if "lossy" in reason:
        return "save the masks as PNG"
    return "mend or remove these files; a run leaves them out and stops above quality.max_quarantined"


def _sizes(about: str, settings: GapConfig, opened: Sequence[Opened]) -> Iterator[Finding]:
    height, width = settings.model.input_size
    shapes = Counter(one.size for one in opened if one.size is not None)
    common = shapes.most_common(1)[0][0]
    aspect = (width / height) / (common[1] / common[0])
    if not 1 / STRETCHED < aspect < STRETCHED:
        yield Finding(
            about, "note",
            f"pictures of {common[1]}×{common[0]} are stretched to input_size [{height}, {width}]: their shape changes "
            f"by {max(aspect, 1 / aspect):.2f}",
            "right where the model was trained so; a target of another shape is a suspect that a run tests (geometry)",
        )  # fmt: skip
    if len(shapes) > 1:
        yield Finding(about, "note", f"{len(shapes)} sizes of pictures in {shapes.total()} that were opened")


def _grouping(about: str, dataset: DatasetConfig, samples: Sequence[SampleFile]) -> Iterator[Finding]:
    groups = {sample.group for sample in samples}
    fix = "give 'group' (a regular expression on the names) or 'group_blocks: 6'"
    if len(groups) == 1 and len(samples) > 1:
        yield Finding(about, "note", "one group only: blocks of neighbours within it stand for drives", fix)
    elif len(groups) == len(samples) > FEW_GROUPS and dataset.group is not None:
        yield Finding(
            about, "note", "every picture is a group of its own: frames of one drive then count as independent", fix
        )
    elif len(groups) < FEW_GROUPS:
        yield Finding(about, "note", f"{len(groups)} groups: intervals rest on blocks of neighbours within each")
    if len(samples) < FEW_SAMPLES:
        yield Finding(about, "note", f"{len(samples)} pictures: intervals will be wide", "add pictures if you can")


def _labels(
    about: str, settings: GapConfig, dataset: DatasetConfig, opened: Sequence[Opened], classes: set[str]
) -> Iterator[Finding]:
    if not opened:
        if not isinstance(dataset, SourceConfig):
            yield Finding(
                about, "note", "no masks: the loss is estimated", "docs/unlabelled.md says what that is worth"
            )
        return
    counts = [np.bincount(one.mask.ravel(), minlength=IGNORE + 1) for one in opened]
    total = np.sum(counts, axis=0)
    names = settings.class_names
    shares = total[: len(names)] / max(1, total.sum())
    classes |= {name for name, share in zip(names, shares, strict=True) if share > 0}
    largest = sorted(zip(shares, names, strict=True), reverse=True)[:SHOWN]
    shown = ", ".join(f"{name} {share:.0%}" for share, name in largest if share > 0)
    yield Finding(f"labels {dataset.name}", "fine", f"{len(opened)} masks: {shown or 'nothing but void'}")
    empty = [one.sample.sample_id for one, count in zip(opened, counts, strict=True) if not count[: len(names)].any()]
    if empty:
        yield Finding(
            f"labels {dataset.name}", "wrong", f"{len(empty)} of {len(opened)} masks are empty, first {empty[0]!r}",
            "no pixel has a class: look at the set's 'labels' and at the files",
        )  # fmt: skip
    void = total[IGNORE] / max(1, total.sum())
    if void > MUCH_VOID and len(empty) < len(opened):
        yield Finding(
            f"labels {dataset.name}", "note", f"{void:.0%} of the pixels are void and count nowhere",
            "what 'labels' leaves out is void: is an id of a large class missing there?",
        )  # fmt: skip


def _parts(about: str, dataset: SourceConfig, samples: list[SampleFile]) -> Iterator[Finding]:
    parts = parts_of(samples, dataset)
    counts = Counter(parts.values())
    labelled = Counter(parts[sample.sample_id] for sample in samples if sample.mask is not None)
    if dataset.reference is None or dataset.holdout is None:
        yield Finding(
            about, "note",
            f"reference {counts['reference']}, holdout {counts['holdout']} pictures, divided by group here",
            "a checkpoint must not have seen the holdout: name both parts by 'reference' and 'holdout'",
        )  # fmt: skip
    else:
        yield Finding(about, "fine", f"reference {counts['reference']}, holdout {counts['holdout']} pictures")
    if not labelled["holdout"]:
        yield Finding(
            about, "wrong", "the holdout has no masks, so there is no loss to compare a target's with",
            "select labelled samples as 'holdout'", refused=True,
        )  # fmt: skip


def _classes(settings: GapConfig, classes: dict[str, set[str]]) -> Iterator[Finding]:
    """Classes that one side lacks: a loss gap by content, or a label map with a hole; names that traits go by."""
    plain = {name.lower() for name in settings.class_names}
    unnamed = [" or ".join(names) for names in NAMED_BY_TRAITS if not plain & set(names)]
    if unnamed:
        yield Finding(
            "classes", "note", f"none is called {', none '.join(unnamed)}: traits of those are not measured",
            "names are free: where you have such a class, call it so",
        )  # fmt: skip
    here = classes.get("source", set())
    unseen = [name for name in settings.class_names if name not in here]
    if here and unseen:
        yield Finding("labels", "note", f"not in the source's masks that were opened: {', '.join(unseen[:SHOWN])}")
    for target in settings.targets:
        there = classes.get(target.name, set())
        lost = [name for name in settings.class_names if name in here and name not in there]
        if there and lost:
            yield Finding(
                f"labels {target.name}", "note", f"in the source's masks and not here: {', '.join(lost[:SHOWN])}",
                "rare classes may just not be in these pictures; a hole in 'labels' would look the same",
            )  # fmt: skip


def _modules(settings: GapConfig) -> Iterator[Finding]:
    from assets.experiments.registry import load_experiments
    from assets.traits.table import catalogue

    try:
        traits = catalogue(settings).traits
        hypotheses = load_experiments(settings, traits)
    except ConfigError as error:
        yield Finding("catalogue", "wrong", str(error), refused=True)
    else:
        yield Finding("catalogue", "fine", f"{len(traits)} traits, {len(hypotheses)} hypotheses")


def _engine(settings: GapConfig) -> Iterator[Finding]:
    from resources.engine import open_engine

    engine, where = open_engine(settings), settings.compute.address
    engine.connect()
    engine.close()
    yield Finding("compute", "fine", f"{settings.compute.engine}{f' at {where}' if where else ''}: there")


def fit_model(settings: GapConfig) -> Any:
    """The network, built as a run would build it. Raises ModelError or ConfigError for one that a run refuses."""
    from resources.model import build_network, open_checkpoint, pick_device
    from resources.vector_index import import_faiss

    import_faiss()
    pick_device(settings.compute.device)
    if settings.model.checkpoint is None:
        return build_network(settings.model, len(settings.class_names))
    return open_checkpoint(settings)


def _model(settings: GapConfig) -> Iterator[Finding]:
    network = fit_model(settings)
    title = " with ".join(settings.model.title)
    if settings.model.checkpoint is None:
        yield Finding(
            "model", "note", f"{title}: fits; no checkpoint, so it is trained on the source's reference",
            "good enough to try things out; put your own model under model.checkpoint",
        )  # fmt: skip
        return
    yield Finding("model", "fine", f"{title}, {settings.model.checkpoint}: fits")
    pictures = list(_holdout_pictures(settings))
    if not pictures:
        return
    from assets.inference.sanity import examine
    from resources.model import SegmentationModel, pick_device

    device = pick_device(settings.compute.device)
    model = SegmentationModel(network, settings.model, len(settings.class_names), "", device)
    yield from told(examine(model, pictures, seconds=SECONDS_FOR_MODEL), settings)


def _holdout_pictures(settings: GapConfig) -> Iterator[Picture]:
    """Labelled pictures of the holdout; none where the data could not be read, which was said already."""
    try:
        reader = open_reader(settings, settings.source)
        samples = reader.scan()
        parts = parts_of(samples, settings.source)
    except (DatasetError, ConfigError):
        return
    held = [sample for sample in samples if parts[sample.sample_id] == "holdout" and sample.mask is not None]
    for sample in spread(held, PICTURES_FOR_MODEL):
        try:
            image = as_rgb(decode(sample.image))
            mask = reader.read_mask(sample.mask) if sample.mask is not None else None
        except UnreadableSample:
            continue
        if mask is not None and mask.shape == image.shape[:2] and (mask != IGNORE).any():
            yield Picture(sample.sample_id, image, mask, to_input(image, settings.model.input_size))


def told(found: Sanity, settings: GapConfig) -> Iterator[Finding]:
    """What the model's losses on a few holdout pictures say."""
    names = settings.class_names
    measured = (
        f"holdout loss {found.loss:.3f}, accuracy {found.accuracy:.1%}, mIoU {found.miou:.3f} on {found.pictures} "
        f"pictures; {1000 * found.seconds_per_picture:.0f} ms a picture"
    )
    chance = f"chance is {found.uniform:.3f}, the class shares alone give {found.prior:.3f}"
    if found.order is not None:
        answers = ", ".join(names[own] for own in found.order)
        yield Finding(
            "model", "wrong",
            f"{measured}; with the classes in another order the accuracy would be {found.order_accuracy:.1%}",
            f"the output channels seem to stand for: classes: [{answers}]",
        )  # fmt: skip
        return  # what else would lower a loss on the wrong classes says nothing
    if found.loss >= found.prior:
        yield Finding(
            "model", "wrong", f"{measured}; no better than chance ({chance})",
            "these are not the weights of a model that was trained on this: look at checkpoint, classes, mean and std",
        )  # fmt: skip
    else:
        yield Finding("model", "fine", f"{measured} ({chance})")
    told_already = set[str]()
    for one in found.better:  # the best of each kind
        if one.variant.setting not in told_already:
            told_already.add(one.variant.setting)
            yield _better(one)


def _better(found: Compared) -> Finding:
    """A way to feed the model that does better than the configured one."""
    variant = found.variant
    fixes = {
        "colours": "the model was trained on BGR pictures (OpenCV's order): exchange the input channels of its first "
        "layer, or wrap it by model.factory",
        "mean, std": f"try model.mean: {_listed(variant.mean)} and model.std: {_listed(variant.std)}",
        "input_size": f"was it trained at another scale? try model.input_size: {_listed(variant.input_size)}",
    }
    return Finding(
        "model", "note" if variant.setting == "input_size" else "wrong",
        f"{variant.name}: loss {found.loss:.3f}, lower in {found.lower} of {found.pictures} pictures",
        fixes[variant.setting],
    )  # fmt: skip


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
