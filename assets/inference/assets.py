"""Doors of inference: `source/model`, and `embeddings` with `evaluation`, which share one forward pass."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.inference.forward import PassTables, run_pass, sample_paths, usable
from assets.inference.latents import EMBEDDING_SCHEMA
from assets.inference.losses import EVALUATION_SCHEMA
from assets.small_plots import histogram
from resources.config import GapConfig
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore, SampleTable

EXPORTED_CODE = tuple(f"resources.exported{part}" for part in (
    ".deepest", ".export_archive", ".network", ".onnx_file", ".program", ".torchscript"))  # fmt: skip
PASS_CODE = ("assets.inference.estimation", "assets.inference.forward", "assets.inference.label_quality",
             "assets.inference.latents",
             "assets.inference.losses", "resources.datasets.base", "resources.model", "resources.pictures",
             *EXPORTED_CODE)  # fmt: skip
MODEL_CODE = ("resources.model", *EXPORTED_CODE)
TRAINING_CODE = ("assets.inference.training", "resources.model", "resources.pictures")


def build_model(config: GapConfig) -> list[Any]:
    """`source/model`: the checkpoint, checked and copied into the store, or a network trained on the reference."""
    trained = config.model.checkpoint is None
    settings = config.model.model_dump(mode="json", exclude={"checkpoint"} | (set() if trained else {"training"}))
    code = code_version(*(TRAINING_CODE if trained else MODEL_CODE))
    spec = door.spec(
        ["source", "model"],
        description=f"{' with '.join(config.model.title)}, "
        + ("trained here on the source's reference." if trained else "from the config's checkpoint."),
        code_version=fingerprint(code, settings, config.class_names),
        kinds=["pytorch"], deps=[["source", "manifest" if trained else "checkpoint"]],
    )  # fmt: skip

    @dg.multi_asset(name="source__model", specs=[spec], pool="gpu")
    def model(store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]) -> dg.MaterializeResult[Any]:
        version, loss = _make_model(config, store, engine)
        return door.result(
            ["source", "model"], version=version, figures={"fingerprint": version, "training_loss": loss}
        )

    return [model]


def _make_model(config: GapConfig, store: SampleStore, engine: Engine) -> tuple[str, float | None]:
    from assets.inference.training import train
    from resources.model import build_network, open_checkpoint, save_model, seed_everything

    if config.model.checkpoint is not None:
        with store.working_copy("models", "current") as folder:
            return save_model(folder, open_checkpoint(config), config, trained_here=False), None
    seed_everything(config.model.training.seed)
    network = build_network(config.model, len(config.class_names), pretrained=True)
    manifest = usable(store.table("source", "manifest").read()).filter(pl.col("labelled"))
    samples = list(sample_paths(manifest.filter(pl.col("part") == "reference")).values())
    loss = train(
        network, lambda chosen: engine.batches("source", chosen, batch_size=config.model.training.batch_size),
        samples, config.model, device=config.compute.device, what="training on the source",
    )  # fmt: skip
    with store.working_copy("models", "current") as folder:
        return save_model(folder, network, config, trained_here=True), loss


def build(config: GapConfig, key: str) -> list[Any]:
    """`embeddings` and `evaluation` of one data set; either alone, or both from the same forwards."""
    code = fingerprint(code_version(*PASS_CODE), config.compute.precision)
    deps = [[key, "manifest"], ["source", "model"]]
    names = {
        "embeddings": (
            "Latent vectors of every sample: whole picture, class regions, encoder stages.",
            EMBEDDING_SCHEMA,
        ),
        "evaluation": (
            "Loss, confusion, confidence and calibration of every sample, as exact sums.",
            EVALUATION_SCHEMA,
        ),
    }
    specs = [
        door.spec([key, name], description=text, code_version=code, kinds=["pytorch", "deltalake", "parquet"],
                  deps=deps, columns=columns, skippable=True)
        for name, (text, columns) in names.items()
    ]  # fmt: skip

    @dg.multi_asset(name=f"{key}__forward", specs=specs, can_subset=True, pool="gpu")
    def forward(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[SampleStore],
        engine: dg.ResourceParam[Engine],
    ) -> Iterator[dg.MaterializeResult[Any]]:
        from resources.model import load_model

        asked = {asset.path[-1] for asset in context.selected_asset_keys}
        tables = {name: store.table(key, name) for name in names if name in asked}
        changes = run_pass(
            load_model(store.local_copy("models", "current"), config),
            store.table(key, "manifest").read(), partial(engine.map_batches, key),
            PassTables(tables.get("embeddings"), tables.get("evaluation")),
            code=code, what=f"{config.dataset(key).name}: forward",
        )  # fmt: skip
        for name, change in changes.items():
            shown = _shown(tables[name]) if name == "evaluation" else {}
            yield door.result([key, name], version=tables[name].version(), change=change, **shown)

    return [forward]


def _shown(table: SampleTable) -> dict[str, Any]:
    """Headline figures, the distribution of the loss, and the costliest samples."""
    rows = table.read(["loss", "confidence", "entropy", "labelled"])
    means = rows.select(pl.col("loss", "confidence", "entropy").mean()).row(0, named=True)
    losses = rows["loss"].drop_nulls()
    worst = rows.drop_nulls("loss").sort("loss", descending=True).select("sample_id", "loss", "confidence", "entropy")
    return {
        "figures": {f"mean_{name}": value for name, value in means.items()},
        "plots": {"losses": histogram(losses.to_numpy(), "loss of each picture")},
        "sample": worst.head(5),
    }
