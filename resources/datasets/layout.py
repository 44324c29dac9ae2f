"""Finding files below a folder, and what a config may change about any reader's samples.

Belongs here: directory walks, split and group patterns, blocks of names. Does not: the layout of one data set.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from resources.config import DatasetConfig
from resources.datasets.base import SampleFile, apply_selection
from resources.errors import ConfigError, DatasetError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def root_of(dataset: DatasetConfig) -> Path:
    """The data set's folder. Raises ConfigError where the config names none."""
    if dataset.root is None:
        raise ConfigError(f"{dataset.name}: missing key 'root': the folder of the data set")
    return dataset.root


def find_files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Files below a folder by their path without suffix ('/' between folders); {} where there is no such folder.

    A suffix is any ending of the name ('_leftImg8bit.png'), in either case. Letters with accents are composed: some
    systems store them in two parts, and a mask has to find its picture. Links are followed, but not in circles; hidden
    files and folders are skipped. Raises DatasetError for two files of one stem, a name that is no text, or a folder
    without access.
    """
    files: dict[str, Path] = {}
    if not folder.is_dir():
        return files
    for relative, path in _walk(folder, "", ()):
        suffix = next((ending for ending in suffixes if relative.lower().endswith(ending.lower())), None)
        if suffix is None:
            continue
        stem = _as_text(relative[: -len(suffix)], path)
        if stem in files:
            raise DatasetError(
                f"{folder}: two files of one stem: {files[stem].name} and {path.name}; "
                "expected names that differ before the suffix"
            )
        files[stem] = path
    return files


def arranged(samples: list[SampleFile], dataset: DatasetConfig) -> list[SampleFile]:
    """Samples with the config's split and group patterns or blocks in place of the reader's own, then selected.

    Blocks are cut before the selection, so that it does not move them.
    """
    samples = sorted(samples, key=lambda sample: sample.sample_id)
    try:
        if dataset.split is not None:
            found = _captured(samples, "split", dataset.split)
            samples = [replace(sample, split=split) for sample, split in zip(samples, found, strict=True)]
        if dataset.group is not None:
            found = _captured(samples, "group", dataset.group)
            samples = [replace(sample, group=group) for sample, group in zip(samples, found, strict=True)]
        if dataset.group_blocks is not None:
            samples = group_blocks(samples, dataset.group_blocks)
        return apply_selection(samples, dataset.select, dataset.limit)
    except DatasetError as error:
        raise DatasetError(f"{dataset.name}: {error}") from None


def group_blocks(samples: list[SampleFile], size: int) -> list[SampleFile]:
    """Samples grouped as 'block000', 'block001', …: `size` consecutive names each, no block across two splits."""
    ordered = sorted(samples, key=lambda sample: (sample.split, sample.sample_id))
    blocked: list[SampleFile] = []
    block = -1
    for _, split in groupby(ordered, key=lambda sample: sample.split):
        for position, sample in enumerate(split):
            block += position % size == 0
            blocked.append(replace(sample, group=f"block{block:03d}"))
    return sorted(blocked, key=lambda sample: sample.sample_id)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path]]:
    """(path below the top folder, path) of every file; `above` are the folders that we are in, by device and inode."""
    try:
        status = folder.stat()
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"{folder}: can't be listed: {error.strerror}; expected a readable folder") from None
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        kind = _kind(entry)
        if kind == "folder":
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif kind == "file":
            yield f"{prefix}{entry.name}", folder / entry.name


def _as_text(name: str, path: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DatasetError(
            f"{str(path)!a}: the name is not UTF-8, so no table can hold it; rename the file or its folder"
        ) from None
    return unicodedata.normalize("NFC", name)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "neither"]:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "neither"
    except OSError:  # a link to itself
        return "neither"


def _captured(samples: list[SampleFile], key: str, pattern: str) -> list[str]:
    """What the pattern's group captures in each stem ('' where it does not match).

    A pattern with a '/' in it can never match a stem, so it is matched against the whole sample_id.
    """
    search = re.compile(pattern).search
    matches = [search(sample.sample_id if "/" in pattern else sample.name) for sample in samples]
    if not any(matches):
        raise DatasetError(f"{key}: {pattern!r} matches none of {len(samples)} names, such as {samples[0].sample_id!r}")
    return [(match.group(1) or "") if match else "" for match in matches]
