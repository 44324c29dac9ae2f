"""Door of scoring: how far the target lies from the source in the model's latent space."""

from typing import Any

import dagster as dg

from assets import door
from assets.scoring.neighbours import SCORES_SCHEMA, latents_of, reference_latents, update_scores
from assets.scoring.sets import index_folder, score_class_shares, score_regions, score_sets, score_stages
from resources.config import GapConfig
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore

ROW_CODE = ("assets.scoring.neighbours", "resources.vector_index")
SET_CODE = ("assets.scoring.class_shares", "assets.scoring.latent_gap", "assets.scoring.sets",
            "assets.statistics.distances", "assets.statistics.effect_sizes", "assets.statistics.neighbourhoods",
            "assets.statistics.resampling", "assets.statistics.two_sample")  # fmt: skip
READ: dict[str, list[str] | None] = {
    "embeddings": None, "manifest": None, "evaluation": ["labelled", "pixels", "class_pixels", "predicted_pixels"],
}  # fmt: skip
"""Tables of both sides, and the columns wanted of them (None: all)."""


def build(config: GapConfig, key: str) -> list[Any]:
    """`gap_scores` of one target."""
    row_code = code_version(*ROW_CODE)
    settings = config.statistics
    spec = door.spec(
        [key, "gap_scores"],
        description="FAISS kNN score, conformal p-value and nearest reference samples of every target sample; "
        "data-set distances with noise floor, p-value and interval, of whole pictures, class regions and encoder "
        "stages; divergence of class shares.",
        code_version=fingerprint(row_code, code_version(*SET_CODE), settings.model_dump(), config.class_names),
        kinds=["faiss", "deltalake"], columns=SCORES_SCHEMA,
        deps=[[side, name] for side in (key, "source") for name in READ],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__gap_scores", specs=[spec])
    def gap_scores(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        embeddings, manifest, evaluation = (
            {side: store.table(side, name).read(columns) for side in ("source", key)} for name, columns in READ.items()
        )
        source = embeddings["source"], manifest["source"]
        reference = reference_latents(*source, settings.neighbours, index_folder(store))
        rows, table = latents_of(embeddings[key], manifest[key], "target"), store.table(key, "gap_scores")
        change = update_scores(rows, reference, settings.neighbours, table, code=row_code)
        scores = table.read()
        measured: dict[str, Any] = {
            "whole": score_sets(*source, rows, reference, scores, settings),
            "regions": score_regions(*source, rows, config.class_names, settings),
            "stages": score_stages(*source, rows, settings),
            "class_shares": score_class_shares(
                (evaluation["source"], manifest["source"]), (evaluation[key], manifest[key]), settings
            ),
        }
        path = store.write_json(measured, "scores", f"{key}.json")
        version = fingerprint(table.version(), path.read_text())
        figures = {name: found["value"] for name, found in measured["whole"].items()}
        figures["jensen_shannon"] = measured["class_shares"]["jensen_shannon"]["value"]
        shown = scores.sort("gap_score", descending=True).select("sample_id", "gap_score", "conformal_p").head(10)
        return door.result([key, "gap_scores"], version=version, change=change, figures=figures, sample=shown)

    return [gap_scores]
