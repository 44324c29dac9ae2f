"""Door of traits: one row of numbers for every sample."""

from functools import partial
from typing import Any

import dagster as dg

from assets import door
from assets.traits.table import catalogue, update_traits
from resources.config import GapConfig
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore

CODE = ("assets.traits.colour", "assets.traits.compression", "assets.traits.layout", "assets.traits.measure",
        "assets.traits.regional", "assets.traits.table", "assets.traits.texture", "resources.pictures")  # fmt: skip


def build(config: GapConfig, key: str) -> list[Any]:
    """`traits` of one data set."""
    traits = catalogue(config)
    code = fingerprint(code_version(*CODE, *config.traits.modules), config.model.input_size, list(traits.traits))
    spec = door.spec(
        [key, "traits"],
        description="What is in each picture: colour, exposure, sharpness, noise, compression, layout, sizes, the look "
        "of the road; from the label, or from the prediction where there is none.",
        code_version=code, kinds=["deltalake", "parquet"], deps=[[key, "manifest"], [key, "evaluation"]],
        columns=traits.schema,
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__traits", specs=[spec])
    def measured(store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]) -> dg.MaterializeResult[Any]:
        table, evaluation = store.table(key, "traits"), store.table(key, "evaluation")
        change, failures = update_traits(
            store.table(key, "manifest").read(), evaluation.read(["fingerprint", "prediction", "labelled"]),
            partial(engine.map_batches, key), traits, table,
            input_size=config.model.input_size, code=code, what=f"{config.dataset(key).name}: traits",
        )  # fmt: skip
        figures: dict[str, Any] = {f"failed_{name}": count for name, count in failures.count.items()}
        figures |= {f"failure_{name}": reason for name, reason in failures.first.items()}
        shown = table.read(["brightness", "saturation", "sharpness", "noise_sigma"]).head(5)
        return door.result([key, "traits"], version=table.version(), change=change, figures=figures, sample=shown)

    return [measured]
