"""A data set on disk that tests of ingestion change file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assets.ingestion.manifest import build_manifest, scan_files
from resources.config import GapConfig
from resources.datasets.folder import FolderReader
from resources.sample_store import SampleTable

CLASSES = ["road", "sky", "car"]
SHAPE = (20, 24)


class CountingReader(FolderReader):
    """The folder reader; it notes which masks it decodes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.decoded: list[str] = []

    def read_mask(self, path):
        self.decoded.append(path.stem)
        return super().read_mask(path)


class DataSet:
    """A folder of pictures and masks with its two tables."""

    def __init__(self, root: Path, store: Path):
        self.root, self.decoded = root, list[str]()
        self.files, self.table = SampleTable(str(store / "files")), SampleTable(str(store / "manifest"))
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True)

    def image(self, name: str) -> Path:
        return self.root / "images" / f"{name}.png"

    def mask(self, name: str) -> Path:
        return self.root / "masks" / f"{name}.png"

    def add(self, *names: str, seed: int = 0, masked: bool = True, shape=SHAPE) -> None:
        for name in names:
            draws = np.random.default_rng([seed, *name.encode()])
            Image.fromarray(draws.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(self.image(name))
            if masked:
                Image.fromarray(draws.choice([0, 1, 2, 255], shape).astype(np.uint8)).save(self.mask(name))

    def remove(self, name: str) -> None:
        self.image(name).unlink()
        self.mask(name).unlink(missing_ok=True)

    def config(self, *, as_source: bool = False, classes=CLASSES, **changes) -> GapConfig:
        here = {"name": "here", "reader": "folder", "root": self.root, **changes}
        plain = {"name": "other", "reader": "folder", "root": self.root}
        source, target = (here, plain) if as_source else (plain, here)
        return GapConfig.model_validate({"classes": classes, "source": source, "targets": [target]})

    def ingest(self, *, code: str = "code", verify: bool = False, as_source: bool = False, **changes):
        """Scan and bring the manifest up to date; returns the change and the rows by sample id."""
        config = self.config(as_source=as_source, **changes)
        dataset = config.source if as_source else config.targets[0]
        reader = CountingReader(dataset, config.class_names)
        samples, _ = scan_files(reader, self.files, verify=verify)
        change = build_manifest(reader, samples, self.files.read(), config, dataset, self.table, code=code)
        self.decoded = sorted(reader.decoded)
        return change, self.rows()

    def rows(self):
        return {row["sample_id"]: row for row in self.table.read().iter_rows(named=True)}


@pytest.fixture
def dataset(tmp_path):
    """An empty data set."""
    return DataSet(tmp_path / "set", tmp_path / "store")
