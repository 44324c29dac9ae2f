"""Door of the report: `report.html`, `report.json`, the recipe and the lists of one target."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.diagnosis.gather import Sides, gap_between, read_sides
from assets.diagnosis.slice_tests import slice_tests
from assets.diagnosis.worst_samples import worst_clusters
from assets.experiments.registry import Experiment
from assets.inference.forward import sample_paths
from assets.inference.latents import vectors
from assets.report import TEMPLATES, gallery
from assets.report.assemble import assemble
from assets.report.document import ReportDocument
from assets.report.evidence import Evidence
from assets.report.figures_logged import logged_metrics, logged_params
from assets.report.label_list import label_list
from assets.scoring.neighbours import latents_of
from assets.scoring.sets import holdout_scores
from assets.traits.table import catalogue
from resources.clock import Clock
from resources.config import GapConfig
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint, folder_version
from resources.sample_store import SampleStore
from resources.tracking import Tracker

CODE = ("assets.diagnosis.estimated", "assets.diagnosis.gather", "assets.diagnosis.label_policy",
        "assets.diagnosis.loss_gap", "assets.diagnosis.slice_tests", "assets.diagnosis.worst_samples",
        "assets.inference.estimation", "assets.inference.label_quality", "assets.inference.sensitivity",
        "assets.report.adaptation_figures", "assets.report.assemble", "assets.report.changes", "assets.report.charts",
        "assets.report.document", "assets.report.evidence", "assets.report.explorer", "assets.report.figures",
        "assets.report.gallery", "assets.report.history", "assets.report.label_list", "assets.report.next_document",
        "assets.report.night", "assets.report.page", "assets.report.parts_document", "assets.report.parts_figures",
        "assets.report.schema", "assets.statistics.differences",
        "resources.csv_text")  # fmt: skip


def build(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> list[Any]:
    """`gap_report` of one target."""
    by_id = {experiment.id: experiment for experiment in experiments}
    spec = door.spec(
        [key, "gap_report"],
        description="One page, one JSON: how large the gap is, what causes it, what closes it.",
        code_version=fingerprint(
            code_version(*CODE), folder_version(TEMPLATES), config.class_names, config.statistics.model_dump()
        ),
        kinds=["html", "json"],
        deps=[[key, name] for name in ("verdicts", "explanation", "causes", "hypotheses", "calibration", "gap_scores",
                                       "traits", "evaluation", "embeddings", "manifest", "next_samples",
                                       "recipe_files")]
        + ([[key, "model_parts"]] if config.model_parts.enabled else [])
        + [["source", name] for name in ("manifest", "evaluation", "embeddings", "traits", "model")]
        + ([[key, "adaptations"]] if config.adaptation.methods else []),
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__gap_report", specs=[spec], pool="gpu")
    def gap_report(
        store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine],
        tracker: dg.ResourceParam[Tracker], clock: dg.ResourceParam[Clock],
    ) -> dg.MaterializeResult[Any]:  # fmt: skip
        from assets.report.figures import png_latent_map, png_trait_shifts
        from assets.report.history import record_report
        from assets.report.nights_page import write_nights_pages
        from assets.report.page import render_page

        sides = read_sides(store, key)
        document = _document(config, store, key, sides, by_id)
        evidence = _evidence(config, store, engine, key, sides, by_id, document)
        document = document.model_copy(update={"worst_samples": gallery.worst_rows(evidence.worst)})
        text = document.model_dump_json(indent=1)
        store.write(evidence.recipe_source, "reports", key, "recipe.py")
        _write_lists(config, store, key, sides, document)
        store.write(render_page(document, evidence), "reports", key, "report.html")
        store.write(text, "reports", key, "report.json")
        record_report(config, store, key, document, clock.now())
        write_nights_pages(config, store)
        plots = {"latent_map": png_latent_map(evidence.latent), "trait_shifts": png_trait_shifts(document.traits)}
        figures = {
            "headline": document.headline,
            "report": store.place("reports", key, "report.html"),
            **_headline_figures(document),
        }
        figures["mlflow_run"] = tracker.log(
            key, logged_metrics(document), logged_params(document), {"domain_gap.headline": document.headline}
        )
        return door.result([key, "gap_report"], version=fingerprint(text), figures=figures, plots=plots)

    return [gap_report]


def nights_spec(key: str) -> dg.AssetSpec:
    """`nights` of one target: no asset that runs, every check of the target notes itself there."""
    return door.spec(
        [key, "nights"],
        description="One event for every check of this target, also where nothing was to be done: the gap night by "
        "night, and what changed since the check before. The whole history is in the trend page.",
        code_version="1", kinds=["deltalake", "html"], deps=[[key, "gap_report"]],
    )  # fmt: skip


def _write_lists(config: GapConfig, store: SampleStore, key: str, sides: Sides, document: ReportDocument) -> None:
    tests = slice_tests(row.model_dump() for row in document.slices)
    store.write_json({"table": f"tables/{key}/traits", "tests": tests}, "reports", key, "slice_tests.json")
    store.write(label_list(sides, config.class_names), "reports", key, "label_errors.csv")


def _headline_figures(document: ReportDocument) -> dict[str, float | int | None]:
    gap, latent = document.performance_gap, document.latent_gap
    return {
        "loss_gap": gap.loss_gap, "target_loss": gap.target_loss, "source_loss": gap.source_loss,
        "target_miou": gap.target_miou, "source_miou": gap.source_miou, "unexplained": document.unexplained.value,
        "recipe_gap_closed": document.recipe.gap_closed, "root_causes": len(document.root_causes),
        "knn_auroc": latent["knn_auroc"].value if "knn_auroc" in latent else None,
    }  # fmt: skip


def _document(
    config: GapConfig, store: SampleStore, key: str, sides: Sides, by_id: dict[str, Experiment]
) -> ReportDocument:
    gap = gap_between(sides, config.statistics)
    quality = {config.dataset(name).name: ("quality", f"{name}.json") for name in ("source", key)}
    priced = store.exists("causes", f"{key}.json")  # a store of an older version has none
    stored = {
        "model": store.read_json("models", "current", "model.json"),
        "scores": store.read_json("scores", f"{key}.json"),
        "diagnosis": store.read_json("diagnosis", f"{key}.json"),
        "explanation": store.read_json("explanation", f"{key}.json"),
        "causes": store.read_json("causes", f"{key}.json") if priced else None,
        "model_parts": store.read_json("model_parts", f"{key}.json") if config.model_parts.enabled else None,
        "verdicts": store.read_json("verdicts", f"{key}.json"),
        "adaptations": store.read_json("adaptations", f"{key}.json") if config.adaptation.methods else None,
        "fits": {name: store.read_json("experiments", key, f"{name}.json") for name in by_id},
        "quality": {name: store.read_json(*parts) for name, parts in quality.items() if store.exists(*parts)},
        "next_samples": store.read_json("next_samples", f"{key}.json"),
        "recipe_forms": store.read_json("recipe_files", f"{key}.json")["files"],
    }
    clusters = worst_clusters(
        sides.target.select("sample_id", "loss"), store.table(key, "embeddings").read(["latent"]),
        store.table(key, "traits").read(), catalogue(config).traits, config.statistics.seed,
    )  # fmt: skip
    return assemble(config, key, sides, gap, stored, by_id, clusters)


def _evidence(
    config: GapConfig, store: SampleStore, engine: Engine, key: str, sides: Sides, by_id: dict[str, Experiment],
    document: ReportDocument,
) -> Evidence:  # fmt: skip
    from resources.model import load_model

    model = load_model(store.local_copy("models", "current"), config)
    traits = {name: store.table(name, "traits").read() for name in ("source", key)}
    latents = {name: store.table(name, "embeddings").read(["sample_id", "latent"]) for name in ("source", key)}
    sets = {
        **{part: latents_of(latents["source"], sides.source_manifest, part) for part in ("reference", "holdout")},
        "target": latents_of(latents[key], sides.target_manifest, "target"),
    }
    shown = gallery.shown_points(sets)
    plane = gallery.Plane.fit(vectors(shown), config.statistics.seed)
    pictures = {name: dict(frame.select("sample_id", "thumbnail").iter_rows()) for name, frame in traits.items()}
    colours = gallery.palette(config.class_names)
    latent = gallery.latent_points(
        shown, plane, _losses(sides), _scores(config, store, key), _thumbnails(shown, pictures, key),
        config.statistics.seed,
    )  # fmt: skip
    return Evidence(
        latent=latent, traits=_trait_values(store, key, sides, traits, by_id),
        worst=_worst(config, store, engine, model, key, sides, pictures["source"], traits[key], colours),
        palette=colours, recipe_source=store.read_json("verdicts", f"{key}.json")["recipe_source"],
        suspects=_suspects(engine, model, key, sides, document), next_pictures=_next_pictures(document, pictures[key]),
        measures=gallery.measures(shown, traits["source"], traits[key], [trait.name for trait in document.traits]),
        regions=_regions(config, store, key, shown), after=_after(store, key, plane, shown, by_id),
        without_sensitivity=gallery.without_sensitivity(model),
    )  # fmt: skip


def _losses(sides: Sides) -> dict[gallery.Point, float]:
    evaluated = {"reference": sides.reference, "holdout": sides.holdout, "target": sides.target}
    return {
        (part, name): loss
        for part, rows in evaluated.items()
        for name, loss in rows.select("sample_id", "loss").iter_rows()
    }


def _scores(config: GapConfig, store: SampleStore, key: str) -> dict[gallery.Point, float]:
    scored = {
        "holdout": holdout_scores(store, config.statistics, config.index),
        "target": store.table(key, "gap_scores").read(["gap_score"]),
    }
    return {(part, name): score for part, rows in scored.items() for name, score in rows.iter_rows()}


def _thumbnails(shown: pl.DataFrame, pictures: dict[str, dict[str, bytes]], key: str) -> dict[gallery.Point, bytes]:
    points = shown.select("set", "sample_id").iter_rows()
    return {(part, name): pictures[key if part == "target" else "source"][name] for part, name in points}


def _regions(config: GapConfig, store: SampleStore, key: str, shown: pl.DataFrame) -> dict[str, pl.DataFrame]:
    columns = ["sample_id", "region_classes", "region_vectors"]
    sets = {}
    for part in ("reference", "holdout", "target"):
        ids = shown.filter(set=part)["sample_id"].implode()
        rows = store.table(key if part == "target" else "source", "embeddings").scan().select(columns)
        sets[part] = rows.filter(pl.col("sample_id").is_in(ids)).collect()
    return gallery.region_points(sets, shown, config.class_names, config.statistics.seed)


def _after(
    store: SampleStore, key: str, plane: gallery.Plane, shown: pl.DataFrame, by_id: dict[str, Experiment]
) -> dict[str, pl.DataFrame]:
    found = {}
    for name in by_id:
        rows = store.table(key, "experiments", name, id_column="row_id").scan()
        moved = rows.filter(pl.col("role").is_in(list(gallery.MOVED))).select("sample_id", "role", "latent", "loss")
        found[name] = gallery.moved_points(moved.collect(), plane, shown)
    return found


def _trait_values(
    store: SampleStore, key: str, sides: Sides, traits: dict[str, pl.DataFrame], by_id: dict[str, Experiment]
) -> pl.DataFrame:
    from assets.traits.measure import PICTURE_TRAITS

    shifts = store.read_json("diagnosis", f"{key}.json")["shifts"]
    names = [row["name"] for row in shifts if row["name"] in traits[key].columns]
    holdout = sides.source_manifest.filter(pl.col("part") == "holdout").select("sample_id")
    changed = {}
    for name, experiment in by_id.items():
        own = [trait for trait in experiment.hypothesis.traits if trait in PICTURE_TRAITS]
        rows = store.table(key, "experiments", name, id_column="row_id").read()
        changed[f"after:{name}"] = gallery.changed_traits(rows, own)
    return gallery.trait_values(names, traits["source"].join(holdout, on="sample_id"), traits[key], changed)


def _suspects(
    engine: Engine, model: Any, key: str, sides: Sides, document: ReportDocument
) -> dict[tuple[str, str], bytes]:
    found: dict[tuple[str, str], bytes] = {}
    for side, name, manifest in (("target", key, sides.target_manifest), ("holdout", "source", sides.source_manifest)):
        paths = sample_paths(manifest)
        listed = [paths[row.sample_id] for row in document.label_errors if row.side == side]
        pictures = gallery.suspect_pictures(engine.batches(name, listed[: gallery.SHOWN_SUSPECTS]), model)
        found |= {(side, sample_id): picture for sample_id, picture in pictures.items()}
    return found


def _next_pictures(document: ReportDocument, thumbnails: dict[str, bytes]) -> dict[str, bytes]:
    chosen = document.next_samples.chosen if document.next_samples is not None else []
    return {row.sample_id: thumbnails[row.sample_id] for row in chosen if thumbnails.get(row.sample_id)}


def _worst(
    config: GapConfig, store: SampleStore, engine: Engine, model: Any, key: str, sides: Sides,
    thumbnails: dict[str, bytes], traits: pl.DataFrame, colours: dict[str, str],
) -> list[Any]:  # fmt: skip
    scores = store.table(key, "gap_scores").read()
    members = sides.target_manifest.filter(~pl.col("quarantined")).select("sample_id", "group")
    ranked = members.join(scores, on="sample_id").join(
        sides.target.select("sample_id", "loss"), on="sample_id", how="left"
    )
    ranked = ranked.sort(pl.coalesce("loss", "gap_score"), "sample_id", descending=[True, False]).head(gallery.WORST)
    ids = ranked["sample_id"].to_list()
    paths = sample_paths(sides.target_manifest)
    evaluation = store.table(key, "evaluation").scan().filter(pl.col("sample_id").is_in(ids))
    predictions = dict(evaluation.select("sample_id", "prediction").collect().iter_rows())
    return gallery.worst_samples(
        ranked, engine.batches(key, [paths[name] for name in ids]), model, predictions, thumbnails, traits,
        catalogue(config).traits, colours,
    )  # fmt: skip
