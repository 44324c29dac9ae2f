"""Doors of scoring: how far the target lies from the source in the model's latent space; what to label next."""

from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.inference.forward import usable
from assets.scoring.neighbours import SCORES_SCHEMA, latents_of, reference_latents, update_scores
from assets.scoring.next_samples import next_list, next_samples
from assets.scoring.sets import (
    INDEX,
    block_device,
    index_summary,
    score_class_shares,
    score_regions,
    score_sets,
    score_stages,
)
from assets.small_plots import histogram
from resources.config import GapConfig
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore

ROW_CODE = ("assets.scoring.neighbours", "resources.vector_index")
SET_CODE = ("assets.scoring.class_shares", "assets.scoring.latent_gap", "assets.scoring.sets",
            "assets.statistics.distances", "assets.statistics.effect_sizes", "assets.statistics.kernel_sums",
            "assets.statistics.neighbourhoods", "assets.statistics.resampling",
            "assets.statistics.two_sample")  # fmt: skip
NEXT_CODE = ("assets.scoring.next_samples", "resources.csv_text")
READ: dict[str, list[str] | None] = {
    "embeddings": None, "manifest": None, "evaluation": ["labelled", "pixels", "class_pixels", "predicted_pixels"],
}  # fmt: skip
"""Tables of both sides, and the columns wanted of them (None: all)."""
SCORED = ("gap_score", "conformal_p", "neighbours", "distances")
"""Columns that are computed from the latents of both sides."""


def build(config: GapConfig, key: str) -> list[Any]:
    """`gap_scores` and `next_samples` of one target."""
    return [_gap_scores(config, key), _next_samples(key)]


def _gap_scores(config: GapConfig, key: str) -> Any:
    row_code = code_version(*ROW_CODE)
    settings = config.statistics
    spec = door.spec(
        [key, "gap_scores"],
        description="FAISS kNN score, conformal p-value and nearest reference samples of every target sample; "
        "data-set distances with noise floor, p-value and interval, of whole pictures, class regions and encoder "
        "stages; divergence of class shares.",
        code_version=fingerprint(row_code, code_version(*SET_CODE), settings.model_dump(),
                                 config.index.model_dump(), config.class_names),
        kinds=["faiss", "deltalake"], columns=SCORES_SCHEMA,
        deps=[[side, name] for side in (key, "source") for name in READ],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__gap_scores", specs=[spec])
    def gap_scores(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        embeddings, manifest, evaluation = (
            {side: store.table(side, name).read(columns) for side in ("source", key)} for name, columns in READ.items()
        )
        source = embeddings["source"], manifest["source"]
        with store.working_copy(*INDEX) as folder:
            reference = reference_latents(*source, settings.neighbours, folder, config.index)
        rows, table = latents_of(embeddings[key], manifest[key], "target"), store.table(key, "gap_scores")
        change = update_scores(rows, reference, settings.neighbours, table, code=row_code)
        scores = table.read()
        measured: dict[str, Any] = {
            "index": index_summary(reference),
            "whole": score_sets(*source, rows, reference, scores, settings, device=block_device(config.compute)),
            "regions": score_regions(*source, rows, config.class_names, settings),
            "stages": score_stages(*source, rows, settings),
            "class_shares": score_class_shares(
                (evaluation["source"], manifest["source"]), (evaluation[key], manifest[key]), settings
            ),
        }
        text = store.write_json(measured, "scores", f"{key}.json")
        version = fingerprint(table.version(), text)
        figures = {name: found["value"] for name, found in measured["whole"].items()}
        figures["index_recall"] = measured["index"]["recall"]
        figures["jensen_shannon"] = measured["class_shares"]["jensen_shannon"]["value"]
        shown = scores.sort("gap_score", descending=True).select("sample_id", "gap_score", "conformal_p").head(10)
        plots = {"scores": histogram(scores["gap_score"].to_numpy(), "gap score of each picture")}
        latents = [([side, "embeddings"], "latent") for side in (key, "source")]
        columns = door.lineage(dict.fromkeys(SCORED, latents))
        return door.result([key, "gap_scores"], version=version, change=change, figures=figures, plots=plots,
                           sample=shown, columns=columns)  # fmt: skip

    return gap_scores


def _next_samples(key: str) -> Any:
    spec = door.spec(
        [key, "next_samples"],
        description="Target samples to collect or label next: few that stand for what the source does not cover, "
        "costly ones first.",
        code_version=code_version(*NEXT_CODE), kinds=["faiss"],
        deps=[[key, name] for name in ("gap_scores", "embeddings", "evaluation", "manifest")]
        + [["source", "manifest"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__next_samples", specs=[spec])
    def chosen(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        manifest = usable(store.table(key, "manifest").read())
        rows = (
            store.table(key, "embeddings")
            .read(["latent"])
            .join(manifest.select("sample_id", "group", "image"), on="sample_id")
        )
        holdout = usable(store.table("source", "manifest").read()).filter(pl.col("part") == "holdout").height
        found = next_samples(
            rows, store.table(key, "gap_scores").read(), store.table(key, "evaluation").read(["loss", "entropy"]),
            holdout,
        )  # fmt: skip
        store.write(next_list(found), "reports", key, "next_samples.csv")
        text = store.write_json(found, "next_samples", f"{key}.json")
        figures = {"uncovered": found["uncovered"], "samples": found["samples"], "listed": len(found["chosen"])}
        shown = (
            pl.DataFrame(found["chosen"][:10]).select("rank", "sample_id", "stands_for") if found["chosen"] else None
        )
        return door.result([key, "next_samples"], version=fingerprint(text), figures=figures, sample=shown)

    return chosen
