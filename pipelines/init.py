"""`domain-gap init`: a commented gap.yaml from a look at two folders.

Belongs here: recognising layouts, guessing names, classes, parts and groups, the text of the config.
Does not: reading data sets (their readers do), checking a config (`resources/config.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from resources.config import CAMVID11, CITYSCAPES19, NAMED_CLASSES, DatasetConfig
from resources.datasets import camvid
from resources.datasets.base import Reader, SampleFile, decode, read_image
from resources.datasets.camvid import CamvidReader
from resources.datasets.cityscapes import LABEL_IDS, CityscapesReader
from resources.datasets.folder import FolderReader
from resources.datasets.kitti import KittiReader
from resources.datasets.label_map import stored_ids
from resources.errors import DatasetError, UnreadableSample

Layout = Literal["cityscapes", "kitti", "camvid", "folder"]
Codes = Mapping[int | str, str]
"""A set's own ids or colours and the classes they become."""

MASKS_READ = 16
MOST_IDS = 254
MOST_COLOURS = 64
DENSE_BELOW = 64
"""Ids below this are taken for indices 0, 1, …; a class list with gaps beyond it gets an explicit map."""
IGNORED_ID = 255
LONGEST_SIDE = 1024
SIZE_STEP = 32
BLOCK = 6

REFERENCE_SPLITS = ("train", "training")
HOLDOUT_SPLITS = ("val", "valid", "validation", "test", "testing")
GROUP_PATTERN = "^(.+)[_-][A-Za-z]?[0-9]+$"

TRANSLATED: dict[str, dict[str, str]] = {
    "cityscapes19": {"sign": "traffic sign", "vehicle": "car", "cyclist": "rider"},
    "camvid11": {
        "wall": "fence", "traffic light": "sign", "traffic sign": "sign", "terrain": "vegetation", "rider": "cyclist",
        "car": "vehicle", "truck": "vehicle", "bus": "vehicle", "train": "vehicle", "motorcycle": "cyclist",
        "bicycle": "cyclist",
    },
}  # fmt: skip
"""What one class list calls the classes of the other, where the names differ."""


@dataclass(frozen=True)
class Found:
    """A folder as far as a look at it goes: its layout, its samples by its reader, and what its masks hold."""

    root: Path
    layout: Layout
    samples: list[SampleFile]
    table: Codes
    looked_at: int
    height: int
    width: int

    @property
    def masks(self) -> int:
        """How many samples have a mask."""
        return sum(sample.mask is not None for sample in self.samples)

    @property
    def is_dense(self) -> bool:
        """Whether its masks hold indices 0, 1, … rather than colours or scattered ids."""
        return all(isinstance(own, int) and own < DENSE_BELOW for own in self.table)


@dataclass(frozen=True)
class Parts:
    """Options of a data set that divide it, as lines of YAML, and the splits that were found."""

    lines: list[str]
    splits: list[str]


def render_config(source: Path, target: Path, base: Path) -> str:
    """A commented gap.yaml for two folders; paths in it are relative to `base`, where the file will lie.

    Raises DatasetError, in one line that says what was looked for, for a folder of no known layout.
    """
    of_source, of_target = look(source), look(target)
    names = _names(source, target)
    listed, class_names, labels = _classes(of_source)
    sections = [
        _HEADER.format(classes=listed, size=_input_size(of_source)),
        "source:",
        *_dataset(names[0], of_source, base, labels, indent="  "),
        *_reference(of_source),
        "",
        "targets:",
        *_as_item(
            _dataset(names[1], of_target, base, _target_labels(of_source, of_target, class_names), indent="    ")
        ),
        _OPTIONAL,
    ]
    return "\n".join(sections)


def look(folder: Path) -> Found:
    """Recognise a folder's layout, list its samples and open one picture and a few masks."""
    layout = _layout(folder)
    dataset = DatasetConfig(name="ours", reader=layout, root=folder.resolve())
    samples = _scan(dataset)
    original = (folder / camvid.STILLS).is_dir()
    tables: dict[str, Codes] = {
        "cityscapes": _named(LABEL_IDS), "kitti": _named(LABEL_IDS),
        "camvid": _named(camvid.COLOURS if original else camvid.SEGNET_IDS),
    }  # fmt: skip
    masks = [sample.mask for sample in samples if sample.mask is not None]
    chosen = [masks[i] for i in sorted({round(i) for i in np.linspace(0, len(masks) - 1, MASKS_READ)})] if masks else []
    table = tables.get(layout) or _codes(folder, chosen)
    height, width = _first_size(samples)
    return Found(folder, layout, samples, table, len(chosen), height, width)


def _layout(folder: Path) -> Layout:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected the folder of a data set")
    there = [entry.name for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    signs: dict[Layout, bool] = {
        "cityscapes": (folder / "leftImg8bit").is_dir(),
        "kitti": any((folder / split / "image_2").is_dir() for split in ("training", "testing")),
        "camvid": (folder / camvid.STILLS).is_dir()
        or any((folder / split).is_dir() and (folder / f"{split}annot").is_dir() for split in camvid.SPLITS),
        "folder": (folder / "images").is_dir(),
    }
    found = next((layout for layout, there_is in signs.items() if there_is), None)
    if found is None:
        shown = ", ".join(there[:6]) or "nothing"
        raise DatasetError(
            f"{folder}: no layout that is known; looked for leftImg8bit/ (cityscapes), training/image_2/ (kitti), "
            f"train/ with trainannot/ or {camvid.STILLS}/ (camvid), images/ with masks/ (folder); found {shown}; "
            "give the folder that holds these, or arrange the pictures as images/ and masks/"
        )
    return found


def _scan(dataset: DatasetConfig) -> list[SampleFile]:
    readers: dict[str, Callable[[DatasetConfig, Sequence[str]], Reader]] = {
        "cityscapes": CityscapesReader,
        "kitti": KittiReader,
        "camvid": CamvidReader,
        "folder": FolderReader,
    }
    own_names = CAMVID11 if dataset.reader == "camvid" else CITYSCAPES19
    return readers[dataset.reader](dataset, own_names).scan()


def _named(table: Mapping[int | str, str | None]) -> Codes:
    known = {*CITYSCAPES19, *CAMVID11}
    return {own: name for own, name in table.items() if name in known}


def _first_size(samples: Sequence[SampleFile]) -> tuple[int, int]:
    for sample in samples[:MASKS_READ]:
        try:
            height, width = read_image(sample.image).shape[:2]
        except UnreadableSample:
            continue
        return height, width
    raise DatasetError(f"{samples[0].image.parent}: none of the first pictures can be read; expected whole pictures")


def _codes(folder: Path, masks: Sequence[Path]) -> Codes:
    """Ids or colours in some masks, each with a placeholder for its class."""
    ids: set[int] = set()
    colours: set[int] = set()
    for path in masks:
        try:
            mask = decode(path)
            if mask.image.mode in ("RGB", "RGBA"):
                red, green, blue = (np.asarray(mask.image)[..., channel].astype(np.int64) for channel in range(3))
                colours.update(np.unique(red << 16 | green << 8 | blue).tolist())
            else:
                ids.update(np.unique(stored_ids(mask)).astype(int).tolist())
        except UnreadableSample:
            continue
    if ids and colours:
        raise DatasetError(f"{folder / 'masks'}: some masks hold ids, some colours; expected one kind in a set")
    if len(ids) > MOST_IDS or len(colours) > MOST_COLOURS:
        raise DatasetError(
            f"{folder / 'masks'}: {len(ids or colours)} different {'ids' if ids else 'colours'} in {len(masks)} masks; "
            "expected one id (or colour) a class, saved without loss as PNG"
        )
    if colours:
        return {f"#{colour:06X}": f"class_{i}" for i, colour in enumerate(sorted(colours))}
    proper = ids - {IGNORED_ID}
    return {own: f"class_{own}" for own in sorted(proper if len(proper) > 1 else ids)}


def _classes(found: Found) -> tuple[str, tuple[str, ...], list[str]]:
    """The lines for `classes`, the class names, and the lines of the source's `labels` (none where not needed)."""
    if found.layout != "folder":
        named = "camvid11" if found.layout == "camvid" else "cityscapes19"
        return f"classes: {named}    # {', '.join(NAMED_CLASSES[named])}", NAMED_CLASSES[named], []
    ids = [own for own in found.table if isinstance(own, int)]
    names = tuple(found.table.values())
    if found.is_dense:  # ids that the few masks lack have their place in the list, too
        names = tuple(f"class_{i}" for i in range(max(*ids, 1, 1) + 1))
    names = names if len(names) > 1 else (*names, "class_other")  # a model of one class has nothing to tell apart
    seen = f"ids {', '.join(map(str, ids))}" if ids else f"{len(found.table)} colours"
    lines = [
        f"# Seen in {found.looked_at} of {found.masks} masks of the source: {seen}. Rename the placeholders"
        if found.table else "# The source has no masks, so these are mere placeholders: put your class names here",
        "# (road, sky, car …): one name for each output channel of the model, in its order. An id that is none of",
        "# them does not belong here: map it to void under the data set's 'labels'.",
        f"classes: [{', '.join(names)}]",
    ]  # fmt: skip
    labels = [] if found.is_dense else _labels(found.table, "what its masks hold; other codes are ignored")
    return "\n".join(lines), names, labels


def _target_labels(source: Found, target: Found, class_names: tuple[str, ...]) -> list[str]:
    if not target.masks:
        return []
    if target.layout == "folder":
        return _folder_labels(source, target, class_names)
    native = "camvid11" if target.layout == "camvid" else "cityscapes19"
    if class_names == NAMED_CLASSES[native]:
        return []
    known = next((name for name, names in NAMED_CLASSES.items() if names == class_names), None)
    if known is None:
        return _labels(
            dict.fromkeys(target.table, "void"),
            "put your class in place of void (ignored); what it is in this set stands beside it",
            beside=target.table,
        )
    translated = {own: TRANSLATED[known].get(name, name) for own, name in target.table.items()}
    kept = {own: name for own, name in translated.items() if name in class_names}
    return _labels(kept, "this set has other classes: check what becomes of them", beside=target.table)


def _folder_labels(source: Found, target: Found, class_names: tuple[str, ...]) -> list[str]:
    if source.layout == "folder" and set(target.table) <= set(source.table):
        return [] if source.is_dense else _labels(source.table, "as in the source")
    if all(isinstance(own, int) and own < len(class_names) for own in target.table):
        order = ", ".join(f"{own} {class_names[own]}" for own in target.table if isinstance(own, int))
        return [f"# labels: its ids are taken for the classes in their order ({order}); map them here if not"]
    own_classes = source.table if source.layout == "folder" else {}
    mapped = {own: own_classes.get(own, "void") for own in target.table}
    return _labels(mapped, "put your class in place of void (ignored)")


def _labels(table: Codes, comment: str, beside: Codes | None = None) -> list[str]:
    lines = [f"labels:    # {comment}"]
    for own, name in table.items():
        shown = f"'{own}'" if isinstance(own, str) else own
        lines.append(f"  {shown}: {name}" + (f"    # {beside[own]}" if beside and beside[own] != name else ""))
    return lines


def _dataset(name: str, found: Found, base: Path, labels: list[str], indent: str) -> list[str]:
    counted = f"{len(found.samples):,} pictures, {found.masks:,} with masks"
    lines = [
        f"name: {name}",
        f"reader: {found.layout}    # {counted}",
        f"root: {_scalar(_relative(found.root, base))}",
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
    if found.layout == "folder":
        line, splits = _split_line(found.samples)
        lines += line
        lines += _group_line(found.samples)
    elif found.layout == "kitti" and not any(sample.group for sample in found.samples):
        lines.append(f"group_blocks: {BLOCK}    # no mapping to drives found: blocks of neighbours stand for them")
    labelled = sorted({sample.split for sample in found.samples if sample.mask is not None} - {""})
    if found.layout != "folder" and labelled and len(labelled) < len(splits):
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
            "# reference: {groups: [first, second]}",
            "# holdout: {groups: [third]}",
            "holdout_share: 0.3",
        ]
    return [f"  {line}" for line in lines]


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
  # checkpoint: weights.safetensors    # the model under test (.safetensors, or a state dict .pt), or a whole network
  #                                      (.onnx, .pt2, .torchscript: architecture and encoder don't count then);
  #                                      without it a model is trained on the source's reference
  # Any other torch.nn.Module instead: a function without arguments, and the module whose output is the latent.
  # factory: mypackage.models:build
  # embedding_layer: backbone.layer4
  input_size: {size}
  mean: [0.485, 0.456, 0.406]    # of the checkpoint's preprocessing, for pictures in 0..1
  std: [0.229, 0.224, 0.225]
"""

_OPTIONAL = """
# All that follows is optional; the values are the defaults unless a comment says otherwise.

# traits: {modules: []}          # modules of your own that register traits
# experiments:
#   modules: []                  # modules of your own that register hypotheses
#   only: [exposure, histogram]  # an example; by default every hypothesis is tried
#   smallest_effect: 0.05        # share of the gap worth acting on
#   alpha: 0.05
# statistics: {permutations: 500, bootstrap: 1000, noise_floor_draws: 50, neighbours: 5, seed: 0}
# quality: {max_quarantined: 0.05}
# compute: {device: auto, batch_size: 8, workers: 2}
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
