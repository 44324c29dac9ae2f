"""Doors of experiments: what explains the shift, one output a hypothesis, the target's verdicts, the recipe's files."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.diagnosis.estimated import fit_calibration
from assets.diagnosis.gather import read_sides
from assets.diagnosis.loss_gap import labelled_rows
from assets.experiments.calibrate import measure_imitated, shifted_sets
from assets.experiments.campaign import Campaign, judge_all, run_experiments, together, unexplained
from assets.experiments.explanation import (
    explained,
    not_explained,
    probed_ids,
    responses_as_values,
    traits_of_part,
)
from assets.experiments.pricing import Priced, attribution, causes_of, price, root_causes
from assets.experiments.recipe import Stack, Step
from assets.experiments.recipe_files import RECIPE_FORMS, recipe_files, tools_present
from assets.experiments.registry import SHARED_CODE, Experiment
from assets.experiments.responses import measure_responses, trait_names
from assets.experiments.shares import Attribution, StackLosses
from assets.experiments.trial import TRIAL_SCHEMA
from assets.experiments.verdict import Rules
from assets.inference.estimation import Calibration
from assets.inference.forward import sample_paths
from assets.ingestion.manifest import CONTENT
from assets.scoring.neighbours import reference_latents
from assets.scoring.sets import INDEX
from assets.small_plots import Row, intervals
from assets.traits.table import catalogue
from resources.config import GapConfig
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore, SampleTable

CALIBRATED = ["loss", "confusion", "expected_loss", "expected_pixels"]
VERDICT_CODE = (*SHARED_CODE, "assets.diagnosis.estimated", "assets.experiments.campaign", "assets.experiments.pricing",
                "assets.experiments.recipe", "assets.experiments.shares",
                "assets.experiments.verdict", "assets.statistics.multiplicity", "assets.statistics.resampling",
                "assets.statistics.shapley")  # fmt: skip
RESPONSE_CODE = ("assets.experiments.explanation", "assets.experiments.forms", "assets.experiments.geometry",
                 "assets.experiments.imitate", "assets.experiments.jpeg", "assets.experiments.normalise",
                 "assets.experiments.responses", "assets.traits.colour", "assets.traits.compression",
                 "assets.traits.layout", "assets.traits.measure", "assets.traits.regional", "assets.traits.texture",
                 "resources.pictures")  # fmt: skip
PRICE_CODE = (*SHARED_CODE, *RESPONSE_CODE, "assets.experiments.explain", "assets.experiments.pricing",
              "assets.experiments.recipe", "assets.experiments.search", "assets.experiments.shares",
              "assets.experiments.verdict", "assets.statistics.multiplicity", "assets.statistics.resampling",
              "assets.statistics.shapley")  # fmt: skip
FILES_CODE = ("assets.experiments.recipe", "assets.experiments.recipe_files")
CALIBRATION_CODE = ("assets.diagnosis.estimated", "assets.experiments.calibrate", "assets.experiments.forms",
                    "assets.experiments.jpeg", "assets.experiments.normalise", "assets.experiments.responses",
                    "assets.inference.estimation", "assets.inference.losses", "resources.model",
                    "resources.pictures")  # fmt: skip
EXPLANATION_CODE = ("assets.experiments.explain", "assets.experiments.explanation", "assets.experiments.responses",
                    "assets.experiments.search", "assets.statistics.resampling")  # fmt: skip


def build_source(config: GapConfig, experiments: Sequence[Experiment]) -> list[Any]:
    """`source/responses`: measured once, used for every target."""
    wanted, traits = [experiment.id for experiment in experiments], catalogue(config).traits
    names = trait_names(traits)
    code = fingerprint(code_version(*RESPONSE_CODE), wanted, names, config.model.input_size)
    spec = door.spec(
        ["source", "responses"],
        description="What each imitation, at each strength, does to the traits of a few pictures of the holdout.",
        code_version=code, kinds=["pytorch"], deps=[["source", "manifest"]],
    )  # fmt: skip

    @dg.multi_asset(name="source__responses", specs=[spec])
    def responses(store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]) -> dg.MaterializeResult[Any]:
        manifest = store.table("source", "manifest").read()
        probed = manifest.filter(pl.col("sample_id").is_in(probed_ids(manifest))).sort("sample_id")
        decides = fingerprint(code, probed.select("sample_id", *CONTENT).rows())
        kept = _kept(store, "responses", "source.json")
        if kept.get("decides") != decides:  # other pictures of the source may have come or gone
            batches = engine.batches("source", list(sample_paths(probed).values()))
            pictures = [picture for batch in batches for picture in batch.pictures]
            found = measure_responses(wanted, pictures, names, config.class_names, "source: responses")
            kept = {**responses_as_values(found, names), "decides": decides}
            store.write_json(kept, "responses", "source.json")
        figures = {"pictures": probed.height, "imitations": len(kept["responses"])}
        return door.result(["source", "responses"], version=decides, figures=figures)

    return [responses]


def build(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> list[Any]:
    """`calibration`, `explanation`, `causes`, `experiments/<hypothesis>`, `verdicts`, `recipe_files` of one target."""
    return [
        _calibration(config, key),
        _explanation(config, key, experiments), _causes(config, key, experiments),
        _experiments(config, key, experiments), _verdicts(config, key, experiments),
        _recipe_files(config, key, experiments),
    ]  # fmt: skip


def _calibration(config: GapConfig, key: str) -> Any:
    code = code_version(*CALIBRATION_CODE)
    spec = door.spec(
        [key, "calibration"],
        description="How the loss is estimated where the target has no labels: fitted on the holdout and imitations "
        "done to it, whose labels say how far an estimate is off.",
        code_version=code, kinds=["pytorch", "deltalake"],
        deps=[["source", "model"], ["source", "manifest"], ["source", "evaluation"], [key, "manifest"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__calibration", specs=[spec], pool="gpu")
    def calibration(
        store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]
    ) -> dg.MaterializeResult[Any]:
        manifest, target = (store.table(side, "manifest").read() for side in ("source", key))
        holdout = labelled_rows(store.table("source", "evaluation").read(CALIBRATED), manifest, "holdout")
        fitted: Calibration | None = None
        if not target["labelled"].any() and not holdout.is_empty():
            rows = measure_imitated(
                load_current(store, config), manifest, partial(engine.map_batches, "source"),
                store.table("source", "imitated", id_column="row_id"), code=code,
            )  # fmt: skip
            sets = shifted_sets(rows)
            fitted = fit_calibration(holdout, *sets) if sets is not None else None
        stored = {"calibration": None if fitted is None else fitted.as_values()}
        text = store.write_json(stored, "calibration", f"{key}.json")
        named = ("temperature", "scale", "power", "error")
        figures = None if fitted is None else {name: float(getattr(fitted, name)) for name in named}
        return door.result([key, "calibration"], version=fingerprint(text), figures=figures)

    return calibration


def _explanation(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> Any:
    ids, settings = [experiment.id for experiment in experiments], config.statistics
    spec = door.spec(
        [key, "explanation"],
        description="Which few causes, and how strong, reproduce the whole shift of traits; what stays unexplained.",
        code_version=fingerprint(code_version(*EXPLANATION_CODE), ids, settings.model_dump()),
        kinds=["polars"], deps=[["source", "responses"], [key, "hypotheses"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__explanation", specs=[spec])
    def explanation(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        source, target = (
            traits_of_part(store.table(side, "traits").read(), store.table(side, "manifest").read(), part)
            for side, part in (("source", "holdout"), (key, "target"))
        )
        stored = store.read_json("responses", "source.json")
        content = explained(stored, catalogue(config).traits, source, target, ids, settings)
        text = store.write_json(content, "explanation", f"{key}.json")
        figures = {"misfit": content["misfit"], "remaining": content["remaining"], "causes": len(content["steps"])}
        shown = pl.DataFrame([{name: step[name] for name in ("experiment", "gain", "p_value", "rivals")}
                              for step in content["steps"]])  # fmt: skip
        version = fingerprint(text)
        return door.result([key, "explanation"], version=version, figures=figures, sample=shown)

    return explanation


def _causes(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> Any:
    by_id, rules = {experiment.id: experiment for experiment in experiments}, Rules.of(config)
    code = fingerprint(code_version(*PRICE_CODE), vars(rules))
    spec = door.spec(
        [key, "causes"],
        description="What explains the shift, laid on the holdout at the strength found: what each cause costs.",
        code_version=code, kinds=["pytorch", "deltalake"],
        deps=[[key, "explanation"], [key, "hypotheses"], [key, "calibration"], ["source", "model"]]
        + [[side, name] for side in ("source", key) for name in ("evaluation", "manifest", "traits")],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__causes", specs=[spec], pool="gpu")
    def causes(store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]) -> dg.MaterializeResult[Any]:
        steps = store.read_json("explanation", f"{key}.json")["steps"]
        table, priced = store.table(key, "causes", id_column="row_id"), Priced([])
        if steps:
            campaign = _campaign(config, store, engine, key)
            losses = StackLosses(campaign, campaign.fit_sets(), table, code)
            detected = store.read_json("diagnosis", f"{key}.json")["gap"]["detected"]
            priced = price(causes_of(steps, by_id), losses, rules, detected=bool(detected))
            losses.finish()
        else:
            _emptied(table)
        text = store.write_json(priced.as_values(), "causes", f"{key}.json")
        shown = pl.DataFrame([{"cause": found.experiment, "verdict": found.verdict, "reason": found.reason}
                              for found in priced.prices])  # fmt: skip
        figures = {"cost": priced.cost, "confirmed": sum(found.verdict == "confirmed" for found in priced.prices)}
        return door.result([key, "causes"], version=fingerprint(text), figures=figures, sample=shown)

    return causes


def _experiments(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> Any:
    by_id = {experiment.id: experiment for experiment in experiments}
    deps = [[key, "hypotheses"], [key, "explanation"], [key, "calibration"], ["source", "model"],
            ["source", "manifest"], [key, "manifest"]]  # fmt: skip
    specs = [
        door.spec([key, "experiments", experiment.id], description=experiment.hypothesis.statement,
                  code_version=experiment.code, kinds=["pytorch", "deltalake"], deps=deps, columns=TRIAL_SCHEMA,
                  skippable=True)
        for experiment in experiments
    ]  # fmt: skip

    @dg.multi_asset(name=f"{key}__experiments", specs=specs, can_subset=True, pool="gpu")
    def trials(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[SampleStore],
        engine: dg.ResourceParam[Engine],
    ) -> Iterator[dg.MaterializeResult[Any]]:
        asked = sorted(asset.path[-1] for asset in context.selected_asset_keys)
        diagnosis = store.read_json("diagnosis", f"{key}.json")
        explanation = store.read_json("explanation", f"{key}.json")
        found = {name: _reason_to_skip(diagnosis, explanation, by_id[name], by_id) for name in asked}
        reasons = {name: reason for name, reason in found.items() if reason is not None}
        tables = {name: store.table(key, "experiments", name, id_column="row_id") for name in asked}
        due = [by_id[name] for name in asked if name not in reasons]
        done = {}
        if due:
            wanted = {experiment.id: tables[experiment.id] for experiment in due}
            done = run_experiments(_campaign(config, store, engine, key), due, wanted, f"{key}: experiments")
        for name in asked:
            summary, counts = _skipped(tables[name], name, reasons[name]) if name in reasons else _done(*done[name])
            store.write_json(summary, "experiments", key, f"{name}.json")
            version = fingerprint(tables[name].version(), summary)
            figures = {"skipped": summary.get("skipped"), **{f"rows_{kind}": count for kind, count in counts.items()}}
            yield door.result([key, "experiments", name], version=version, **_shown(tables[name], figures))

    return trials


def _shown(table: SampleTable, figures: dict[str, Any]) -> dict[str, Any]:
    """The mean loss in each role beside other figures, and the samples that are worst off."""
    rows = table.read(["sample_id", "role", "loss"]).drop_nulls("loss")
    means = rows.group_by("role").agg(pl.col("loss").mean()).sort("role")
    figures = {**figures, **{f"loss_{role}": mean for role, mean in means.iter_rows()}}
    return {
        "figures": figures,
        "sample": rows.sort("loss", descending=True).head(5).select("sample_id", "role", "loss"),
    }


def _verdicts(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> Any:
    by_id = {experiment.id: experiment for experiment in experiments}
    rules = Rules.of(config)
    code = fingerprint(code_version(*VERDICT_CODE), vars(rules))
    spec = door.spec(
        [key, "verdicts"],
        description="Every experiment judged (confirmed, refuted, inconclusive, skipped), the recipe, the unexplained.",
        code_version=code, kinds=["polars"],
        deps=[[key, "experiments", name] for name in by_id]
        + [[side, name] for side in ("source", key) for name in ("evaluation", "manifest", "embeddings")]
        + [[key, "gap_scores"], [key, "hypotheses"], [key, "causes"], [key, "calibration"], ["source", "model"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__verdicts", specs=[spec], pool="gpu")
    def verdicts(store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]) -> dg.MaterializeResult[Any]:
        content = _judge(config, store, engine, key, by_id, rules, code)
        text = store.write_json(content, "verdicts", f"{key}.json")
        words = [row["verdict"] for row in content["experiments"]]
        figures = {word: words.count(word) for word in ("confirmed", "refuted", "inconclusive", "skipped")}
        figures |= {
            "unexplained": content["unexplained"]["value"],
            "recipe_gap_closed": content["recipe"]["gap_closed"],
        }
        shown = pl.DataFrame([{name: row[name] for name in ("experiment", "verdict", "reason")}
                              for row in content["experiments"]])  # fmt: skip
        plots = {"closed": intervals(_bars(content["experiments"]), "share of the gap closed, with its interval")}
        version = fingerprint(text)
        return door.result([key, "verdicts"], version=version, figures=figures, plots=plots, sample=shown)

    return verdicts


def _bars(rows: list[dict[str, Any]]) -> list[Row]:
    """Experiments that have an interval, the largest share first."""
    closed = [
        (str(row["experiment"]), float(row["gap_closed"]), (row["ci95"][0], row["ci95"][1]), str(row["verdict"]))
        for row in rows if row.get("gap_closed") is not None and row.get("ci95")
    ]  # fmt: skip
    return sorted(closed, key=lambda row: -row[1])


def _judge(
    config: GapConfig, store: SampleStore, engine: Engine, key: str, by_id: dict[str, Experiment], rules: Rules,
    code: str,
) -> dict[str, Any]:  # fmt: skip
    summaries = {name: store.read_json("experiments", key, f"{name}.json") for name in by_id}
    skipped = [
        {"experiment": name, "verdict": "skipped", "reason": summary["skipped"]}
        for name, summary in summaries.items() if summary.get("skipped")
    ]  # fmt: skip
    tried = [name for name, summary in summaries.items() if not summary.get("skipped")]
    priced = Priced.of_values(store.read_json("causes", f"{key}.json"))
    if not tried:
        shared = attribution(priced, Attribution([], 0.0, None, []), by_id)
        return {"experiments": skipped, "recipe": {"steps": [], "gap_closed": None, "ci95": None, "loss_after": None},
                "attribution": shared.rows(), "not_attributed": shared.left_out,
                "unexplained": _left(shared, detected=False), "recipe_source": "",
                "root_causes": root_causes(priced, [], by_id, 0.0)}  # fmt: skip
    campaign = _campaign(config, store, engine, key)
    rows = {name: store.table(key, "experiments", name, id_column="row_id").read() for name in tried}
    latents = store.table("source", "embeddings").read(), campaign.sides.source_manifest
    k = config.statistics.neighbours
    with store.working_copy(*INDEX) as folder:
        reference = reference_latents(*latents, k, folder, config.index)
    reweighted = [name for name in tried if by_id[name].direction == "reweight"]
    scores = store.table(key, "gap_scores").read()
    diagnosis = store.read_json("diagnosis", f"{key}.json")
    detected = bool(diagnosis["gap"]["detected"]) or not diagnosis["estimated"]
    judged, gap = judge_all(campaign, rows, scores, reference, k, rules, reweighted, detected=detected)
    confirmed = [by_id[row["experiment"]] for row in judged if row["verdict"] == "confirmed"]
    confirmed.sort(key=lambda experiment: -_strength(judged, experiment.id))
    table = store.table(key, "recipe", id_column="row_id")
    outcome = together(campaign, confirmed, gap, table, code, [row["experiment"] for row in judged if not row["ci95"]])
    if outcome.changed_model is not None:
        _save_changed(store, key, outcome.changed_model)
    shared = attribution(priced, outcome.attribution, by_id)
    return {"experiments": judged + skipped, "recipe": outcome.recipe,
            "attribution": shared.rows(), "not_attributed": shared.left_out,
            "unexplained": _left(shared, detected=detected), "recipe_source": outcome.source,
            "root_causes": root_causes(priced, judged, by_id, gap.value)}  # fmt: skip


def _left(shared: Attribution, *, detected: bool) -> dict[str, Any]:
    """What is unexplained; nothing where no share of a gap is known and none was tried on one that is detected."""
    return unexplained(shared) if detected or shared.shares else {"value": None, "ci95": None}


def load_current(store: SampleStore, config: GapConfig) -> Any:
    """The model under test, as the store keeps it."""
    from resources.model import load_model

    return load_model(store.local_copy("models", "current"), config)


def _campaign(config: GapConfig, store: SampleStore, engine: Engine, key: str) -> Campaign:
    return Campaign(
        key, read_sides(store, key), store.table("source", "traits").read(), store.table(key, "traits").read(), engine,
        load_current(store, config),
    )  # fmt: skip


def _reason_to_skip(
    diagnosis: dict[str, Any], explanation: dict[str, Any], experiment: Experiment, by_id: dict[str, Experiment]
) -> str | None:
    """Why an experiment is not worth a forward: no labels, no gap, a trait that does not differ, a better cause.

    An estimated gap whose interval holds 0 is no reason: that interval holds the estimator's own error.
    """
    if diagnosis["without_gap"]:
        return f"{diagnosis['without_gap']}, so no loss can be compared"
    if diagnosis["estimated"] and experiment.direction == "reweight":
        return "it needs the target's labels, and the target has none"
    gap = diagnosis["gap"]
    if not (gap["ci_high"] > 0 if diagnosis["estimated"] else gap["detected"]):
        said = "no loss gap by estimated loss" if diagnosis["estimated"] else "no loss gap"
        return f"{said}: {gap['loss_gap']:+.3f} [{gap['ci_low']:+.3f}, {gap['ci_high']:+.3f}]"
    row = next(row for row in diagnosis["hypotheses"] if row["id"] == experiment.id)
    titles = {name: other.hypothesis.title for name, other in by_id.items()}
    return not_explained(explanation, experiment.id, titles) if row["supported"] else str(row["reason"])


def _skipped(table: SampleTable, name: str, reason: str) -> tuple[dict[str, Any], dict[str, int]]:
    return {"id": name, "skipped": reason}, {"removed": _emptied(table)}


def _emptied(table: SampleTable) -> int:
    """Remove all rows of a table, which exists afterwards. Returns how many there were."""
    gone = table.keys()["row_id"].to_list()
    table.remove(gone)
    if not table.exists:
        table.upsert(pl.DataFrame(schema=TRIAL_SCHEMA))
    return len(gone)


def _done(fitted: Any, counts: dict[str, int]) -> tuple[dict[str, Any], dict[str, int]]:
    summary = fitted.summary()
    if not {"normalised", "imitated"} & set(fitted.parameters):
        summary["skipped"] = "; ".join(fitted.reasons.values())
    return summary, counts


def _strength(judged: list[dict[str, Any]], name: str) -> float:
    row = next(row for row in judged if row["experiment"] == name)
    return float(row["gap_closed"] if row["ci95"] is not None else row["gap_induced"])


def _save_changed(store: SampleStore, key: str, model: Any) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.network.state_dict().items()}
    store.write(save(tensors), "reports", key, "recipe-model.safetensors")


def _recipe_files(config: GapConfig, key: str, experiments: Sequence[Experiment]) -> Any:
    by_id = {experiment.id: experiment for experiment in experiments}
    code = fingerprint(code_version(*FILES_CODE), config.model.input_size)
    spec = door.spec(
        [key, "recipe_files"],
        description="The recipe as other tools load it: a torchvision v2 transform, an Albumentations transform, ONNX.",
        code_version=code, kinds=["pytorch", "onnx"], deps=[[key, "verdicts"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__recipe_files", specs=[spec])
    def files(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        verdicts, kept = store.read_json("verdicts", f"{key}.json"), _kept(store, "recipe_files", f"{key}.json")
        steps = verdicts["recipe"]["steps"]
        decides = fingerprint(code, verdicts["recipe_source"], steps, tools_present())
        if kept.get("decides") != decides:  # a verdict may have changed and the recipe not
            stack = Stack([Step(by_id[step["hypothesis"]], step["parameters"]) for step in steps])
            found = recipe_files(stack, config.dataset(key).name, config.model.input_size)
            contents = {file.name: file.content for file in found}
            for name in RECIPE_FORMS:
                _write_or_remove(store, contents.get(name), "reports", key, name)
            kept = {"decides": decides, "files": [file.row() for file in found]}
            store.write_json(kept, "recipe_files", f"{key}.json")
        figures = {row["name"].replace(".", "_"): row["note"] for row in kept["files"]}
        return door.result([key, "recipe_files"], version=decides, figures=figures)

    return files


def _kept(store: SampleStore, *parts: str) -> dict[str, Any]:
    """A JSON file of an earlier run; empty where there is none."""
    found: dict[str, Any] = store.read_json(*parts) if store.exists(*parts) else {}
    return found


def _write_or_remove(store: SampleStore, content: str | bytes | None, *parts: str) -> None:
    if content is None:
        store.remove(*parts)
    else:
        store.write(content, *parts)
