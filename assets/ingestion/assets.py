"""Doors of ingestion: `images` (observed) and `manifest`, once for the source and once for each target."""

from typing import Any

import dagster as dg

from assets import door
from assets.ingestion.manifest import MANIFEST_SCHEMA, build_manifest, content_version, scan_files
from resources.config import GapConfig
from resources.datasets import open_reader
from resources.fingerprint import code_version, file_digest, fingerprint
from resources.sample_store import SampleStore

CODE = ("assets.ingestion.manifest", "assets.statistics.resampling", "resources.datasets.base",
        "resources.datasets.label_map", "resources.datasets.layout", "resources.datasets.metadata")  # fmt: skip


def build(config: GapConfig, key: str) -> list[Any]:
    """Assets of one data set: 'source' or a target's name."""
    return [_images(config, key), _manifest(config, key)]


def build_checkpoint(config: GapConfig) -> list[Any]:
    """`source/checkpoint`, the observed weights file; nothing where the model is trained here."""
    path = config.model.checkpoint
    if path is None:
        return []

    @dg.observable_source_asset(
        key=["source", "checkpoint"], group_name="source", description=f"The weights under test: {path.name}.",
        tags=door.kind_tags("file"),
    )  # fmt: skip
    def checkpoint() -> dg.DataVersion:
        return dg.DataVersion(file_digest(path))

    return [checkpoint]


def _images(config: GapConfig, key: str) -> Any:
    dataset = config.dataset(key)

    @dg.observable_source_asset(
        key=[key, "images"],
        group_name=key,
        description=f"Pictures and masks of {dataset.name}; the version is a hash of names and contents.",
        tags=door.kind_tags("folder"),
        metadata={"reader": dataset.reader, "root": str(dataset.root or "built in")},
    )
    def images(store: dg.ResourceParam[SampleStore]) -> dg.ObserveResult:
        table = store.table(key, "files")
        samples, change = scan_files(open_reader(config, dataset), table)
        version = content_version(table.read(), dataset.metadata)
        counts: dict[str, Any] = {f"files_{name}": count for name, count in change.counts().items()}
        return dg.ObserveResult(data_version=dg.DataVersion(version), metadata={"samples": len(samples), **counts})

    return images


def _manifest(config: GapConfig, key: str) -> Any:
    dataset = config.dataset(key)
    code = fingerprint(
        code_version(*CODE, f"resources.datasets.{dataset.reader}"),
        dataset.described(), config.class_names,
    )  # fmt: skip
    spec = door.spec(
        [key, "manifest"],
        description=f"One row a sample of {dataset.name}: content hash, size, group, part, half, class pixels; "
        "what can't be used is quarantined with its reason.",
        code_version=code, kinds=["deltalake", "parquet"], deps=[[key, "images"]], columns=MANIFEST_SCHEMA,
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__manifest", specs=[spec])
    def manifest(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        reader, files, table = open_reader(config, dataset), store.table(key, "files"), store.table(key, "manifest")
        samples, _ = scan_files(reader, files)
        change = build_manifest(reader, samples, files.read(), config, dataset, table, code=code)
        rows = table.read()
        quarantined = rows.filter("quarantined").select("sample_id", "reason")
        parts = {f"part_{part}": count for part, count in rows.group_by("part").len().iter_rows()}
        figures = {
            "samples": rows.height, "quarantined": quarantined.height, "labelled": int(rows["labelled"].sum()),
            "groups": rows["group"].n_unique(), **parts,
        }  # fmt: skip
        shown = quarantined if not quarantined.is_empty() else rows.select("sample_id", "part", "group").head(5)
        return door.result(
            [key, "manifest"], version=table.version(), change=change, figures=figures, sample=shown.head(20)
        )

    return manifest
