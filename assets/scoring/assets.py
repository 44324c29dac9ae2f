"""Door of scoring: how far the target lies from the source in the model's latent space."""

from typing import Any

import dagster as dg

from assets import door
from assets.scoring.neighbours import SCORES_SCHEMA, latents_of, reference_latents, update_scores
from assets.scoring.sets import REGION_STATISTICS, index_folder, score_regions, score_sets
from resources.config import GapConfig
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore

ROW_CODE = ("assets.scoring.neighbours", "resources.vector_index")
SET_CODE = ("assets.scoring.latent_gap", "assets.scoring.sets", "assets.statistics.distances",
            "assets.statistics.neighbourhoods", "assets.statistics.resampling",
            "assets.statistics.two_sample")  # fmt: skip


def build(config: GapConfig, key: str) -> list[Any]:
    """`gap_scores` of one target."""
    row_code = code_version(*ROW_CODE)
    settings = config.statistics
    spec = door.spec(
        [key, "gap_scores"],
        description="FAISS kNN score, conformal p-value and nearest reference samples of every target sample; "
        "data-set distances with noise floor, p-value and interval.",
        code_version=fingerprint(row_code, code_version(*SET_CODE), settings.model_dump(), REGION_STATISTICS),
        kinds=["faiss", "deltalake"], columns=SCORES_SCHEMA,
        deps=[[key, "embeddings"], ["source", "embeddings"], [key, "manifest"], ["source", "manifest"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__gap_scores", specs=[spec])
    def gap_scores(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        source, target = (
            (store.table(name, "embeddings").read(), store.table(name, "manifest").read()) for name in ("source", key)
        )
        reference = reference_latents(*source, settings.neighbours, index_folder(store))
        rows, table = latents_of(*target, "target"), store.table(key, "gap_scores")
        change = update_scores(rows, reference, settings.neighbours, table, code=row_code)
        scores = table.read()
        whole = score_sets(*source, rows, reference, scores, settings)
        regions = score_regions(*source, rows, config.class_names, settings)
        path = store.write_json({"whole": whole, "regions": regions}, "scores", f"{key}.json")
        version = fingerprint(table.version(), path.read_text())
        figures = {name: measured["value"] for name, measured in whole.items()}
        shown = scores.sort("gap_score", descending=True).select("sample_id", "gap_score", "conformal_p").head(10)
        return door.result([key, "gap_scores"], version=version, change=change, figures=figures, sample=shown)

    return [gap_scores]
