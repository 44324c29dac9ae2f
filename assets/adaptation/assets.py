"""Doors of adaptation: one asset a method, and the target's judgement of all methods together."""

from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.adaptation.campaign import judge_target, no_reason_to_adapt, open_campaign, summary
from assets.adaptation.material import runs_of
from assets.adaptation.registry import METHODS, Method, training_code
from assets.adaptation.runs import Skipped
from assets.adaptation.trial import ADAPTED_SCHEMA, TRIAL_CODE, measure_runs
from assets.diagnosis.gather import read_sides
from assets.experiments.verdict import Rules
from resources.config import GapConfig
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore, SampleTable

JUDGING_CODE = ("assets.adaptation.campaign", "assets.adaptation.card", "assets.adaptation.judged",
                "assets.adaptation.registry", "assets.diagnosis.gather", "assets.diagnosis.loss_gap",
                "assets.experiments.verdict", "assets.statistics.multiplicity", "assets.statistics.resampling",
                "assets.statistics.segmentation")  # fmt: skip

VERDICTS = ("confirmed", "refuted", "inconclusive", "skipped")


def build(config: GapConfig, key: str) -> list[Any]:
    """`adaptation/<method>` of one target for each of the config's methods, and `adaptations`; nothing without any."""
    methods = [METHODS[name] for name in config.adaptation.methods]
    return [_adaptation(config, key, method) for method in methods] + ([_judged(config, key)] if methods else [])


def _adaptation(config: GapConfig, key: str, method: Method) -> Any:
    settings = config.adaptation
    code = code_version(*training_code(method))
    read = (settings.steps, settings.seeds, settings.batch_size, settings.learning_rate, settings.seconds(method.id))
    spec = door.spec(
        [key, "adaptation", method.id],
        description=f"{method.description} ({method.paper})",
        code_version=fingerprint(code, code_version(*TRIAL_CODE, *JUDGING_CODE), read, vars(Rules.of(config))),
        kinds=["pytorch", "deltalake", "safetensors"],
        deps=[["source", "model"]] + [[side, name] for side in ("source", key) for name in ("manifest", "evaluation")],
        columns=ADAPTED_SCHEMA,
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__adaptation__{method.id}", specs=[spec], pool="gpu")
    def adaptation(store: dg.ResourceParam[SampleStore], engine: dg.ResourceParam[Engine]) -> dg.MaterializeResult[Any]:
        table, what = store.table(key, "adaptation", method.id, id_column="row_id"), f"{key}: {method.title}"
        reason = no_reason_to_adapt(read_sides(store, key), Rules.of(config))
        if reason is not None:
            found, change = summary(method, [], [Skipped("default", reason)]), _emptied(table)
        else:
            campaign = open_campaign(config, store, engine, key)
            with store.working_copy("adaptation", key, method.id) as folder:
                runs = runs_of(method, settings, campaign, folder, code)
                records, skipped = runs.run(what)
                change = measure_runs(runs, records, campaign, table, code_version(*TRIAL_CODE), what)
            found = summary(method, records, skipped)
        store.write_json(found, "adaptation", key, f"{method.id}.json")
        figures = {"runs": len(found["runs"]), "minutes": sum(run["seconds"] for run in found["runs"]) / 60,
                   "skipped": "; ".join(one["reason"] for one in found["skipped"][:1]) or None}  # fmt: skip
        version = fingerprint(table.version(), found)
        return door.result([key, "adaptation", method.id], version=version, change=change, figures=figures)

    return adaptation


def _judged(config: GapConfig, key: str) -> Any:
    rules = Rules.of(config)
    spec = door.spec(
        [key, "adaptations"],
        description="All adaptations judged together: gap closed, side effect on the source, what the oracle leaves.",
        code_version=fingerprint(code_version(*JUDGING_CODE), vars(rules), config.adaptation.methods),
        kinds=["polars"],
        deps=[[key, "adaptation", name] for name in config.adaptation.methods]
        + [[side, "evaluation"] for side in ("source", key)] + [["source", "model"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__adaptations", specs=[spec])
    def adaptations(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        content = judge_target(config, store, key, read_sides(store, key), rules)
        text = store.write_json(content, "adaptations", f"{key}.json")
        words = [row["verdict"] for row in content["rows"]]
        figures: dict[str, Any] = {
            word: words.count(word) for word in ("confirmed", "refuted", "inconclusive", "skipped")
        }
        figures["oracle_leaves"] = content["hard_data"]["left"] if content["hard_data"] else None
        shown = pl.DataFrame([{name: row[name] for name in ("title", "verdict", "reason")} for row in content["rows"]])
        return door.result([key, "adaptations"], version=fingerprint(text), figures=figures, sample=shown)

    return adaptations


def _emptied(table: SampleTable) -> Any:
    change = table.diff(pl.DataFrame(schema={"row_id": pl.String, "fingerprint": pl.String}))
    table.remove(change.removed)
    if not table.exists:
        table.upsert(pl.DataFrame(schema=ADAPTED_SCHEMA))
    return change
