"""Runs the corpus and says what came of it, in the words that the table of docs/reliability.md has.

Belongs here: running cases through readers, manifest, checks and config; the table. Does not: the cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corpus import CLASSES, FileCase, SetCase, TextCase, config_cases, file_cases, set_cases, side_cases

from assets.ingestion.manifest import build_manifest, scan_files
from assets.ingestion.quality import check_manifest
from resources.config import GapConfig, load_config
from resources.datasets.base import read_image
from resources.datasets.folder import FolderReader
from resources.datasets.metadata import read_metadata
from resources.errors import ConfigError, DatasetError
from resources.sample_store import SampleTable

Outcomes = dict[str, str]


def expected_of_file(case: FileCase) -> str:
    """What has to come of a file."""
    if case.kind == "quarantined":
        return _said("quarantined", case.phrase)
    if case.kind == "left aside":
        return case.kind
    how = "its very values" if not case.tolerance else f"within {case.tolerance} grey values"
    return f"used, {how}{', with its mask' if case.mask is not None else ''}"


def outcomes_of_files(folder: Path) -> Outcomes:
    """Every file case in one data set, from the folder to the manifest."""
    cases, root = file_cases(), folder / "set"
    for case in cases:
        case.place(root)
    config = _config(root, as_source=False)
    reader = FolderReader(config.targets[0], config.class_names)
    rows = {row["sample_id"]: row for row in _manifest(config, folder / "store").iter_rows(named=True)}
    return {case.title: _of_file(case, rows, reader) for case in cases}


def _of_file(case: FileCase, rows: dict[str, Any], reader: FolderReader) -> str:
    row = rows.get(case.sample_id)
    if row is None:
        return "left aside"
    if row["quarantined"]:
        return _said("quarantined", case.phrase if case.phrase in row["reason"] else row["reason"])
    return _wrong_values(case, row, reader) or expected_of_file(case)


def _wrong_values(case: FileCase, row: dict[str, Any], reader: FolderReader) -> str | None:
    image = read_image(Path(row["image"])).astype(int)
    if case.image is None:
        return "used, though it was to be refused"
    if image.shape != case.image.shape or np.abs(image - case.image).max() > case.tolerance:
        return "used, with wrong values"
    if (case.mask is None) != (row["mask"] is None):
        return "used, and its mask lost"
    if case.mask is not None and not np.array_equal(reader.read_mask(Path(row["mask"])), case.mask):
        return "used, with a wrong mask"
    return None


def expected_of_set(case: SetCase) -> str:
    """What has to come of a set."""
    if case.phrase:
        return _said("error", case.phrase)
    return f"failed checks: {', '.join(case.checks)}" if case.checks else "used"


def outcomes_of_sets(folder: Path) -> Outcomes:
    """Every set case, from the folder to the checks of its manifest."""
    return {case.title: _of_set(case, folder / str(number)) for number, case in enumerate(set_cases())}


def _of_set(case: SetCase, folder: Path) -> str:
    root = folder / "set"
    root.mkdir(parents=True)
    config = _config(root, as_source=case.as_source, **case.make(root))
    try:
        manifest = _manifest(config, folder / "store", as_source=case.as_source)
    except (ConfigError, DatasetError) as error:
        return _said("error", case.phrase if case.phrase in str(error) else str(error))
    if not case.checks:
        return "used" if not manifest["quarantined"].any() else "quarantined"
    results = check_manifest(manifest, is_source=case.as_source, max_quarantined=0.05, other_hashes=[])
    failed = ", ".join(result.name for result in results if not result.passed)
    return f"failed checks: {failed}" if failed else "used"


def expected_of_text(case: TextCase) -> str:
    """What has to come of a config or a table of side information."""
    return "read, its very values" if case.values is not None else _said("error", case.phrase)


def outcomes_of_configs(folder: Path) -> Outcomes:
    """Every config case, as the command line loads it."""
    for name in ("day", "dusk"):
        (folder / name).mkdir(parents=True)
    return {case.title: _of_config(case, folder / "gap.yaml") for case in config_cases()}


def _of_config(case: TextCase, path: Path) -> str:
    path.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
    try:
        load_config(path)
    except ConfigError as error:
        message = str(error)
        if "\n" in message or not message.startswith(f"{path}: ") or "TOPSECRET" in message:
            return f"error of a wrong form: {message}"
        return _said("error", case.phrase if case.phrase in message else message)
    return "loaded"


def outcomes_of_side_tables(folder: Path) -> Outcomes:
    """Every table of side information."""
    folder.mkdir(parents=True)
    return {case.title: _of_side_table(case, folder / f"side{case.suffix}") for case in side_cases()}


def _of_side_table(case: TextCase, path: Path) -> str:
    path.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
    try:
        values = read_metadata(path).get("a", {})
    except DatasetError as error:
        return _said("error", case.phrase if case.phrase in str(error) else str(error))
    return "read, its very values" if values == case.values else f"read: {values}"


TITLES = ("Pictures, masks and names", "Whole sets", "Configs", "Side information")


def run_corpus(folder: Path) -> list[Outcomes]:
    """All parts of the corpus, in the order of `TITLES`."""
    return [
        outcomes_of_files(folder / "files"),
        outcomes_of_sets(folder / "sets"),
        outcomes_of_configs(folder / "configs"),
        outcomes_of_side_tables(folder / "side"),
    ]


def corpus_tables(parts: Sequence[Outcomes]) -> str:
    """All cases with what came of them, as Markdown."""
    titled = zip(TITLES, parts, strict=True)
    return "\n\n".join(f"### {title}: {len(found)}\n\n{_table(found)}" for title, found in titled)


def _table(outcomes: Outcomes) -> str:
    rows = [("input", "outcome"), ("---", "---"), *outcomes.items()]
    return "\n".join(f"| {_cell(title)} | {_cell(outcome)} |" for title, outcome in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _said(what: str, phrase: str) -> str:
    return f"{what}: {phrase}" if phrase else what


def _config(root: Path, *, as_source: bool, **changes: Any) -> GapConfig:
    here = {"name": "here", "reader": "folder", "root": root, **changes}
    other = {"name": "other", "reader": "folder", "root": root}
    source, targets = (here, [other]) if as_source else (other, [here])
    return GapConfig.model_validate({"classes": CLASSES, "source": source, "targets": targets})


def _manifest(config: GapConfig, store: Path, *, as_source: bool = False) -> Any:
    dataset = config.source if as_source else config.targets[0]
    reader = FolderReader(dataset, config.class_names)
    files, table = SampleTable(str(store / "files")), SampleTable(str(store / "manifest"))
    samples, _ = scan_files(reader, files)
    build_manifest(reader, samples, files.read(), config, dataset, table, code="corpus")
    return table.read()


def section(text: str, name: str) -> tuple[int, int]:
    """Where a generated part of a document begins and ends, between its two marks."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    return text.index(begin) + len(begin), text.index(end)


def replaced(text: str, parts: Sequence[tuple[str, str]]) -> str:
    """A document with its generated parts written anew."""
    for name, content in parts:
        first, last = section(text, name)
        text = f"{text[:first]}{content}\n{text[last:]}"
    return text
