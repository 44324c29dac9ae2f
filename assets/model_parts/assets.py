"""Doors of the model's parts: the holdout's side, measured once, and which parts transfer to each target."""

from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.model_parts.ablation import Side
from assets.model_parts.analysis import analyse_target, measure_holdout, part_tables, side_data, skipped_parts
from assets.model_parts.parts import NoParts, examine
from resources.config import GapConfig
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint
from resources.model import SegmentationModel
from resources.sample_store import SampleStore

MEASURED_CODE = ("assets.adaptation.losses", "assets.adaptation.networks", "assets.experiments.model_side",
                 "assets.experiments.trial", "assets.inference.losses", "assets.inference.training",
                 "assets.model_parts.ablation", "assets.model_parts.activations", "assets.model_parts.parts",
                 "assets.model_parts.recovery", "assets.statistics.moments", "resources.pictures")  # fmt: skip
CODE = (*MEASURED_CODE, "assets.model_parts.analysis", "assets.model_parts.conclusion", "assets.model_parts.plots",
        "assets.statistics.multiplicity", "assets.statistics.ratios", "assets.statistics.resampling",
        "assets.statistics.two_sample")  # fmt: skip


def build_source(config: GapConfig) -> list[Any]:
    """`source/model_parts`: the holdout's side, used for every target; nothing where the stage is off."""
    settings, code = config.model_parts, code_version(*MEASURED_CODE)
    key = ["source", "model_parts"]
    spec = door.spec(
        key,
        description="Activations of the model's parts on the holdout, and the loss there without each of them.",
        code_version=fingerprint(code, settings.pictures), kinds=["pytorch", "deltalake"],
        deps=[["source", name] for name in ("model", "manifest", "evaluation")],
    )  # fmt: skip

    @dg.multi_asset(name="source__model_parts", specs=[spec], pool="gpu")
    def model_parts(
        store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]
    ) -> dg.MaterializeResult[Any]:
        try:
            examined = examine(_model(config, store))
        except NoParts as reason:
            return door.result(key, version=fingerprint(str(reason)), figures={"skipped": str(reason)})
        tables = part_tables(store, "source")
        holdout = side_data(store, engine, "source", "holdout")
        forwards = measure_holdout(examined, holdout, tables, settings, code)
        return door.result(key, version=tables.version(), figures={"parts": len(examined.parts), "forwards": forwards})

    return [model_parts] if settings.enabled else []


def build(config: GapConfig, key: str) -> list[Any]:
    """`model_parts` of one target; nothing where the stage is off."""
    settings, measured = config.model_parts, code_version(*MEASURED_CODE)
    decides = (
        settings.model_dump(),
        config.statistics.model_dump(),
        config.experiments.alpha,
        config.experiments.smallest_effect,
    )
    spec = door.spec(
        [key, "model_parts"],
        description="Which parts of the model transfer: the gap of their activations, what each is worth on each side.",
        code_version=fingerprint(code_version(*CODE), decides), kinds=["pytorch", "deltalake"],
        deps=[["source", "model_parts"], ["source", "model"]]
        + [[side, name] for side in ("source", key) for name in ("manifest", "evaluation")],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__model_parts", specs=[spec], pool="gpu")
    def model_parts(
        store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]
    ) -> dg.MaterializeResult[Any]:
        from assets.model_parts.plots import png_parts

        names: dict[Side, str] = {"holdout": "source", "target": key}
        try:
            examined = examine(_model(config, store))
        except NoParts as reason:
            content = skipped_parts(key, str(reason))
        else:
            sides = {side: side_data(store, engine, name, side) for side, name in names.items()}
            tables = {side: part_tables(store, name) for side, name in names.items()}
            content = analyse_target(examined, key, sides, tables, config, measured)
        text = store.write_json(content, "model_parts", f"{key}.json")
        version = fingerprint(text)
        plots = {"parts": png_parts(content["parts"])} if content["parts"] else {}
        return door.result(
            [key, "model_parts"], version=version, figures=_figures(content), plots=plots, sample=_shown(content)
        )

    return [model_parts] if settings.enabled else []


def _model(config: GapConfig, store: SampleStore) -> SegmentationModel:
    from resources.model import load_model

    return load_model(store.local_copy("models", "current"), config)


def _figures(content: dict[str, Any]) -> dict[str, float | int | str | None]:
    words = [part["transfer"] for part in content["parts"]]
    counts = {word.replace(" ", "_"): words.count(word) for word in sorted(set(words))}
    shifts = {f"shift_of_{_key(part['name'])}": float(part["gap"]["shift"]) for part in content["parts"]}
    return {"sentence": content["sentence"], "origin": content["origin"], **counts, **shifts}


def _key(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _shown(content: dict[str, Any]) -> pl.DataFrame:
    rows = [{"part": part["name"], "transfer": part["transfer"], "why": "; ".join(part["reasons"])}
            for part in content["parts"]]  # fmt: skip
    return pl.DataFrame(rows)
