"""`source/responses` is measured on a few pictures of the source and kept while those stay as they are."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml
from PIL import Image, ImageOps

from assets.experiments import assets as door
from assets.experiments.explanation import probed_ids
from pipelines.definitions import build_defs
from resources.config import load_config
from resources.datasets.streets import STREETS_CLASSES
from resources.sample_store import SampleStore

MANIFEST, RESPONSES = (dg.AssetKey(["source", name]) for name in ("manifest", "responses"))


class Source:
    """A small source of which only manifest and responses are made; `measured`: of how many pictures, each time."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = {
            "store": str(root / "store"), "classes": list(STREETS_CLASSES), "model": {"input_size": [48, 80]},
            "source": {"name": "city", "reader": "streets", "scene": "city", "count": 60, "holdout_share": 0.45},
            "targets": [{"name": "other", "reader": "streets", "scene": "other_camera", "count": 10}],
            "experiments": {"only": ["saturation"]},
        }  # fmt: skip
        (root / "gap.yaml").write_text(yaml.safe_dump(settings))
        self.store, self.instance = SampleStore(str(root / "store")), dg.DagsterInstance.ephemeral()
        self.job = build_defs(load_config(root / "gap.yaml")).resolve_implicit_global_asset_job_def()
        self.measured: list[int] = []
        measure = door.measure_responses

        def counted(wanted, pictures, *others):
            self.measured.append(len(pictures))
            return measure(wanted, pictures, *others)

        monkeypatch.setattr(door, "measure_responses", counted)

    def run(self) -> tuple[str, str]:
        """Make manifest and responses again: their data versions."""
        assert self.job.execute_in_process(instance=self.instance, asset_selection=[MANIFEST, RESPONSES]).success
        events = [self.instance.get_latest_materialization_event(key) for key in (MANIFEST, RESPONSES)]
        manifest, responses = (event.asset_materialization.tags["dagster/data_version"] for event in events)
        return manifest, responses

    def manifest(self) -> pl.DataFrame:
        return self.store.table("source", "manifest").read()

    def content(self) -> str:
        return self.store.read("responses", "source.json").decode()


@pytest.fixture
def source(tmp_path, monkeypatch) -> Source:
    return Source(tmp_path, monkeypatch)


def mirror(manifest: pl.DataFrame, sample_id: str) -> None:
    """Another picture under the same name."""
    path = Path(manifest.filter(sample_id=sample_id)["image"].item())
    with Image.open(path) as image:
        mirrored = ImageOps.mirror(image)
    mirrored.save(path)


def test_responses_are_kept_while_the_probed_pictures_stay(source):
    first, content = source.run(), source.content()
    manifest = source.manifest()
    probed = probed_ids(manifest)
    assert source.measured == [len(probed)] and len(probed) > 1

    others = manifest.filter(~pl.col("sample_id").is_in(probed))
    for part in ("reference", "holdout"):
        mirror(manifest, others.filter(part=part)["sample_id"][0])
    gone = others.filter(part="reference").row(-1, named=True)
    for kind in ("image", "mask"):
        Path(gone[kind]).unlink()
    second = source.run()
    assert second[0] != first[0], "the manifest knows of the other pictures"
    assert second[1] == first[1] and source.content() == content
    assert source.measured == [len(probed)], "nothing was measured again"

    mirror(manifest, probed[0])
    third = source.run()
    assert third[1] != first[1] and source.content() != content
    assert source.measured == [len(probed)] * 2
