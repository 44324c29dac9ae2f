"""`domain-gap init`: a commented gap.yaml from a look at two folders.

Belongs here: guessing names, class lists, label maps, parts and groups, the text of the config.
Does not: recognising a folder (`resources/datasets/recognise.py`), checking a config (`resources/config.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from resources.config import CAMVID11, CITYSCAPES19, IGNORED_NAMES, NAMED_CLASSES
from resources.datasets.base import SampleFile
from resources.datasets.known_labels import is_void, nearest_class, usual_names
from resources.datasets.recognise import SPLIT_FOLDERS, Found, look, placed

DENSE_BELOW = 64
"""Ids below this are taken for indices 0, 1, …; a class list with gaps beyond it gets an explicit map."""
IGNORED_ID = 255
LONGEST_SIDE = 1024
SIZE_STEP = 32
BLOCK = 6
MOST_GROUPS_LISTED = 12
MOST_LISTED = 64
"""A class file of more classes than this gives only those that were seen."""

REFERENCE_SPLITS = ("train", "training")
HOLDOUT_SPLITS = ("val", "valid", "validation", "test", "testing")
GROUP_PATTERN = "^(.+)[_-][A-Za-z]?[0-9]+$"
FOLDER_PATTERN = "^(.+)/"

Names = dict[int | str, str]
"""A set's own ids or colours and the config's classes that they become."""


@dataclass(frozen=True)
class Parts:
    """Options of a data set that divide it, as lines of YAML, and the splits that were found."""

    lines: list[str]
    splits: list[str]


@dataclass(frozen=True)
class Proposal:
    """The text of a gap.yaml, and what it rests on."""

    text: str
    source: Found
    target: Found
    class_names: tuple[str, ...]
    to_do: list[str]

    def summary(self) -> dict[str, Any]:
        """What was found in words and numbers, for scripts."""
        sides = {"source": self.source, "target": self.target}
        return {
            **{key: {"reader": found.layout, "images": found.images, "masks": found.masks,
                     "pictures": len(found.samples), "labelled": found.labelled,
                     "labels": found.origin or None, "codes": len(found.codes)} for key, found in sides.items()},
            "classes": list(self.class_names),
            "to_do": self.to_do,
        }  # fmt: skip


def propose(source: Path, target: Path, base: Path, checkpoint: Path | None = None) -> Proposal:
    """A commented gap.yaml for two folders; paths in it are relative to `base`, where the file will lie.

    Raises DatasetError, in one line that says what was looked for, for a folder of no known layout.
    """
    of_source, of_target = look(source), look(target)
    first, second = _names(source, target)
    listed, class_names, labels = _classes(of_source)
    target_labels = _target_labels(of_source, of_target, class_names)
    weights = f"checkpoint: {_scalar(_relative(checkpoint, base))}" if checkpoint is not None else _NO_CHECKPOINT
    sections = [
        _HEADER.format(classes=listed, checkpoint=weights, size=_input_size(of_source)),
        "source:",
        *_dataset(first, of_source, base, labels, indent="  "),
        *_reference(of_source),
        "",
        "targets:",
        *_as_item(_dataset(second, of_target, base, target_labels, indent="    ")),
        _OPTIONAL,
    ]
    to_do = _to_do(of_source, of_target, class_names, target_labels, checkpoint)
    return Proposal("\n".join(sections), of_source, of_target, class_names, to_do)


def _to_do(
    source: Found, target: Found, class_names: tuple[str, ...], target_labels: list[str], checkpoint: Path | None
) -> list[str]:
    found = []
    if any(re.fullmatch(r"class_\w+", name) for name in class_names):
        found.append("give 'classes' the names of your classes, in the order of the model's output channels")
    if any("in place of void" in line for line in target_labels):
        found.append("give the codes under the target's 'labels' your classes; what stays void is ignored")
    elif lost := [match[1] for line in target_labels if (match := re.search(r": void    # ([A-Za-z][^,]*)", line))]:
        counted = [name for name in lost if not is_void(name)]
        found += [f"no class for {', '.join(counted)} of the target: ignored, unless you map them"] if counted else []
    if not source.labelled:
        found.append("the source has no masks: without them there is no loss to compare with")
    if not target.labelled:
        found.append("the target has no masks: its loss is estimated (docs/unlabelled.md)")
    if checkpoint is None:
        found.append("put your model under 'checkpoint'; without one a small network is trained on the source")
    return found


def _classes(found: Found) -> tuple[str, tuple[str, ...], list[str]]:
    """The lines for `classes`, the class names, and the lines of the source's `labels` (none where not needed)."""
    if not found.table:
        return _placeholders(found)
    listed, names = _class_list(found)
    labels = {own: nearest_class(name or "void", names) or "void" for own, name in found.table.items()}
    if not _needs_labels(found, labels, names):
        return listed, names, []
    return listed, names, _labels(found, _worth_listing(found, labels), found.origin)


def _class_list(found: Found) -> tuple[str, tuple[str, ...]]:
    """The class list that a set's own table leads to: a named one where it is one."""
    own = list(dict.fromkeys(name for name in found.table.values() if name and not is_void(name)))
    for title, names in NAMED_CLASSES.items():
        if found.origin in _NAMED_TABLES[title]:
            return f"classes: {title}    # {', '.join(names)}", names
    if len(own) > MOST_LISTED or found.origin.startswith("the "):
        own = [name for name in own if any(found.table.get(code) == name for code in found.codes)]
    usual = usual_names(own)
    renamed = [f"{new} ({old})" for old, new in zip(own, usual, strict=True) if new != old.lower()]
    lines = [
        f"# By {found.origin}. One name for each output channel of the model, in its order:",
        "# if the model was trained on other classes, list those, and map the ids to them in 'labels'.",
        *(["# Names as the traits of roads, skies and cars know them: " + ", ".join(renamed)] if renamed else []),
        f"classes: [{', '.join(_scalar(name) for name in usual)}]",
    ]
    return "\n".join(lines), tuple(usual)


_NAMED_TABLES = {
    "cityscapes19": (
        "the train ids of Cityscapes (KITTI, BDD100K and others use them too)",
        "the label ids of Cityscapes (KITTI, GTA5 and others use them too)",
        "the colours of Cityscapes",
    ),
    "camvid11": ("the 11 ids of CamVid", "the colours of CamVid"),
}
"""Published tables whose classes have a name of their own in a config."""


def _placeholders(found: Found) -> tuple[str, tuple[str, ...], list[str]]:
    ids = sorted(own for own in found.codes if isinstance(own, int))
    proper = [own for own in ids if own != IGNORED_ID]
    ids = proper if len(proper) > 1 else ids
    dense = all(isinstance(own, int) and own < DENSE_BELOW for own in ids) and bool(ids or not found.codes)
    if dense:  # ids that the few masks lack have their place in the list, too
        own_names: Names = {i: f"class_{i}" for i in range(max([*ids, 1]) + 1)}
    else:
        codes: list[int | str] = [*ids] or list(found.codes)
        own_names = {own: f"class_{own if ids else i}" for i, own in enumerate(codes)}
    names = tuple(own_names.values())
    names = names if len(names) > 1 else (*names, "class_other")  # a model of one class has nothing to tell apart
    lines = [
        f"# No table that is known fits the masks, so these are placeholders (seen in {found.looked_at} of "
        f"{found.labelled} masks:"
        if found.codes else "# The source has no masks, so these are mere placeholders: put your class names here",
        *(f"#   {_shown(own)}: {_described(found, own)}" for own in found.codes),
        *(["# ). Rename them to your classes"] if found.codes else []),
        "# (road, sky, car …): one name for each output channel of the model, in its order. An id that is none of",
        "# them does not belong here: map it to void under the data set's 'labels'.",
        f"classes: [{', '.join(names)}]",
    ]  # fmt: skip
    return "\n".join(lines), names, [] if dense else _labels(found, own_names, "what its masks hold")


def _target_labels(source: Found, target: Found, class_names: tuple[str, ...]) -> list[str]:
    if not target.labelled:
        return []
    if not source.table and target.table:
        mapped: Names = dict.fromkeys(_worth_listing(target, dict.fromkeys(target.table, "")), "void")
        return _labels(target, mapped, f"by {target.origin}: put your class in place of void (ignored)")
    if target.table:
        mapped = {own: nearest_class(name or "void", class_names) or "void" for own, name in target.table.items()}
        if not _needs_labels(target, mapped, class_names):
            return []
        return _labels(target, _worth_listing(target, mapped), f"{target.origin}, in the config's classes; check them")
    return _unnamed_labels(source, target, class_names)


def _unnamed_labels(source: Found, target: Found, class_names: tuple[str, ...]) -> list[str]:
    """Labels of a target whose codes no table names: as in the source where they are the same, else void."""
    dense = all(isinstance(own, int) and own < len(class_names) for own in target.codes.keys() - {IGNORED_ID})
    if not source.table and set(target.codes) <= {*source.codes, IGNORED_ID}:
        _, names, labels = _placeholders(source)
        return [] if not labels else _labels(source, dict(zip(source.codes, names, strict=False)), "as in the source")
    in_order: dict[int | str, str | None] = dict(enumerate(class_names))
    if dense and placed(target.codes, in_order) >= 0:
        order = ", ".join(f"{own} {in_order[own]}" for own in target.codes if isinstance(own, int) and own in in_order)
        return [f"# labels: its ids are taken for the classes in their order ({order}); map them here if not"]
    return _labels(target, dict.fromkeys(target.codes, "void"), "put your class in place of void (ignored)")


def _needs_labels(found: Found, labels: Mapping[int | str, str], class_names: Sequence[str]) -> bool:
    """Whether a reader without `labels` would take a code for another class than `labels` does."""
    if found.layout in ("cityscapes", "kitti") and found.origin == _NAMED_TABLES["cityscapes19"][1]:
        return tuple(class_names) != CITYSCAPES19
    if found.layout == "camvid" and found.origin in _NAMED_TABLES["camvid11"]:
        return tuple(class_names) != CAMVID11
    in_order: dict[int | str, str] = {**dict(enumerate(class_names)), IGNORED_ID: "void"}
    return found.layout not in ("folder", "pairs") or any(
        in_order.get(own) != labels.get(own, "void") for own in found.codes
    )


def _worth_listing(found: Found, labels: Names) -> Names:
    """What has a class, seen or not, and what was seen."""
    ignored = ("void", *IGNORED_NAMES)
    return {own: name for own, name in labels.items() if own in found.codes or name not in ignored}


def _labels(found: Found, table: Names, comment: str) -> list[str]:
    lines = [f"labels:    # {comment}"]
    for own, name in table.items():
        beside = [
            text for text in (found.table.get(own), _described(found, own)) if text and text.lower() != name.lower()
        ]
        lines.append(f"  {_shown(own)}: {_scalar(name)}" + (f"    # {', '.join(beside)}" if beside else ""))
    return lines


def _shown(own: int | str) -> str:
    return f"'{own}'" if isinstance(own, str) else str(own)


def _described(found: Found, own: int | str) -> str:
    code = found.codes.get(own)
    return f"{code.share:.1%} of the pixels, {code.place}" if code else ""


def _dataset(name: str, found: Found, base: Path, labels: list[str], indent: str) -> list[str]:
    counted = f"{len(found.samples):,} pictures, {found.labelled:,} with masks"
    patterns = {"images": found.images, "masks": found.masks}
    lines = [
        f"name: {name}",
        f"reader: {found.layout}    # {counted}",
        f"root: {_scalar(_relative(found.root, base))}",
        *(f"{key}: {_scalar(pattern)}" for key, pattern in patterns.items() if pattern is not None),
        *_parts(found).lines,
        *labels,
    ]
    return [f"{indent}{line}" for line in lines]


def _as_item(lines: list[str]) -> list[str]:
    return [f"  - {lines[0].strip()}", *lines[1:]]


def _parts(found: Found) -> Parts:
    """Split and group options where the reader has none of its own, and which splits there are."""
    lines: list[str] = []
    splits = sorted({sample.split for sample in found.samples} - {""})
    if found.layout in ("folder", "pairs"):
        line, splits = _split_line(found.samples)
        lines += line
        lines += _group_line(found.samples)
    elif found.layout == "kitti" and not any(sample.group for sample in found.samples):
        lines.append(f"group_blocks: {BLOCK}    # no mapping to drives found: blocks of neighbours stand for them")
    labelled = sorted({sample.split for sample in found.samples if sample.mask is not None} - {""})
    if found.layout not in ("folder", "pairs") and labelled and len(labelled) < len(splits):
        lines.append(f"select: {{splits: [{', '.join(labelled)}]}}    # the splits that have labels")
        splits = labelled
    return Parts(lines, splits)


def _split_line(samples: Sequence[SampleFile]) -> tuple[list[str], list[str]]:
    known = {*REFERENCE_SPLITS, *HOLDOUT_SPLITS}
    ways = {"^([^/]+)/": [sample.sample_id for sample in samples], "^([a-z]+)[_-]": [s.name for s in samples]}
    for pattern, texts in ways.items():
        matches = [re.search(pattern, text) for text in texts]
        values = {match.group(1) if match else "" for match in matches}
        if values <= known:
            return [f"split: '{pattern}'    # from the names: {', '.join(sorted(values))}"], sorted(values)
    return ["# split: '^([a-z]+)_'    # where names say it: a regular expression with one capture group"], []


def _group_line(samples: Sequence[SampleFile]) -> list[str]:
    matches = [re.search(GROUP_PATTERN, sample.name) for sample in samples]
    groups = {match.group(1) for match in matches if match}
    if all(matches) and 1 < len(groups) <= len(samples) / 2:
        return [f"group: '{GROUP_PATTERN}'    # {len(groups)} groups from the names: is each one drive or place?"]
    size = max(1, min(BLOCK, len(samples) // 12))
    inside = {sample.sample_id.rpartition("/")[0] for sample in samples}
    if 1 < len(inside - set(SPLIT_FOLDERS)) <= len(samples) / 2 and "" not in inside:
        return [f"group: '{FOLDER_PATTERN}'    # {len(inside)} folders: is each one drive or place?"]
    return [
        f"group_blocks: {size}    # neighbours in name order are kept together; better, where names say the drive:",
        "# group: '_(drive[0-9]+)_'",
    ]


def _reference(found: Found) -> list[str]:
    """Lines that divide the source into what the model was fitted on and what it has not seen."""
    splits = _parts(found).splits
    reference = next((split for split in REFERENCE_SPLITS if split in splits), None)
    holdout = next((split for split in HOLDOUT_SPLITS if split in splits), None)
    lines = [
        "# reference: what the model was fitted on (or stands for it). holdout: what it has never seen;",
        "# the gap is the target against the holdout, so a picture of the training set has no place in it.",
    ]
    if reference is not None and holdout is not None:
        lines += [f"reference: {{splits: [{reference}]}}", f"holdout: {{splits: [{holdout}]}}"]
    else:
        lines += [
            "# The folder does not say which is which: whole groups are held out until you name them.",
            *_named_groups(found.samples),
            "holdout_share: 0.3",
        ]
    return [f"  {line}" for line in lines]


def _named_groups(samples: Sequence[SampleFile]) -> list[str]:
    """An example of how to name reference and holdout, by the groups that there are."""
    matches = (re.search(GROUP_PATTERN, sample.name) for sample in samples)
    groups = sorted({sample.group for sample in samples} - {""} or {match[1] for match in matches if match})
    if not 1 < len(groups) <= MOST_GROUPS_LISTED:
        return ["# reference: {groups: [first, second]}", "# holdout: {groups: [third]}"]
    return [f"# reference: {{groups: [{', '.join(groups[:-1])}]}}", f"# holdout: {{groups: [{groups[-1]}]}}"]


def _names(source: Path, target: Path) -> tuple[str, str]:
    first, second = (_name(path.resolve().name) for path in (source, target))
    if second in (first, "source"):
        second = f"{second}_target"
    return first, second


def _name(folder: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")
    return (plain if re.match("[a-z]", plain) else f"set_{plain}".rstrip("_"))[:48]


def _relative(root: Path, base: Path) -> str:
    """Relative where the folder is near the config, absolute where the way would lead up more than two folders."""
    absolute = root.resolve()
    try:
        relative = Path(os.path.relpath(absolute, base.resolve()))
    except ValueError:  # another drive
        return str(absolute)
    return str(absolute) if relative.parts[:3] == ("..",) * 3 else relative.as_posix()


def _scalar(text: str) -> str:
    return (
        yaml.safe_dump(text, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("\n...\n").strip()
    )


def _input_size(found: Found) -> str:
    scale = min(1.0, LONGEST_SIDE / max(found.height, found.width))
    height, width = (
        max(SIZE_STEP, round(side * scale / SIZE_STEP) * SIZE_STEP) for side in (found.height, found.width)
    )
    return f"[{height}, {width}]    # height, width; the first picture has [{found.height}, {found.width}]"


_HEADER = """\
# Written by 'domain-gap init' from a look at two folders. Every guess has a comment; look at them, then run:
#   domain-gap check
# Paths are relative to this file, the store to the folder where the command runs.
store: ./gap-data

{classes}

model:
  architecture: DeepLabV3Plus    # any architecture of segmentation_models_pytorch
  encoder: tu-tf_efficientnet_lite0
  {checkpoint}
  # Any other torch.nn.Module instead: a function without arguments, and the module whose output is the latent.
  # factory: mypackage.models:build
  # embedding_layer: backbone.layer4
  input_size: {size}
  mean: [0.485, 0.456, 0.406]    # of the checkpoint's preprocessing, for pictures in 0..1
  std: [0.229, 0.224, 0.225]
"""

_NO_CHECKPOINT = """\
# checkpoint: weights.safetensors    # the model under test (.safetensors, or a state dict .pt), or a whole network
  #                                      (.onnx, .pt2, .torchscript: architecture and encoder don't count then);
  #                                      without it a model is trained on the source's reference"""

_OPTIONAL = """
# All that follows is optional; the values are the defaults unless a comment says otherwise.

# traits: {modules: []}          # modules of your own that register traits
# experiments:
#   modules: []                  # modules of your own that register hypotheses
#   only: [exposure, histogram]  # an example; by default every hypothesis is tried
#   smallest_effect: 0.05        # share of the gap worth acting on
#   alpha: 0.05
# statistics: {permutations: 500, bootstrap: 1000, noise_floor_draws: 50, neighbours: 5, seed: 0}
# index: {exact_up_to: 100000, compress_above: 5000000, recall: 0.95, memory_gb: 8}
# quality: {max_quarantined: 0.05}
# compute: {engine: local, device: auto, batch_size: 8, workers: 2}
# schedule: {cron: "0 2 * * *", timezone: UTC, enabled: false}
# checks: {slice_tests: slice_tests.json}           # an example: what 'domain-gap export slice-tests' writes
# tracking: {mlflow: "http://host:5000", experiment: domain-gap}   # an example; by default nothing is logged
# alerts:                        # examples; by default nobody is told
#   loss_gap: 0.2
#   knn_auroc: 0.8
#   gap_closed_drop: 0.1
#   change: {nights: 7, loss_gap: 0.05}
#   new_cause: true
#   quality: true
#   no_check_hours: 30
#   cooldown_hours: 72
#   link: https://gap.example.org/reports
#   notify: ["mailto://user:password@example.org"]
"""
