"""What every check ends in, a missed night in Dagster, and alerts from the command line."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from assets.report.document import Estimate
from assets.report.history import SCHEMA, history_table, read_history
from assets.report.night import Night, NightFigures, SetCounts
from pipelines.cli import app
from pipelines.definitions import build_defs
from pipelines.nights import NO_MISSED_NIGHT, build_checks, finish_check
from pipelines.rerun import Outcome, Rerun
from pipelines.schedules import missed_after
from resources.clock import Clock
from resources.config import GapConfig, load_config
from resources.errors import ConfigError
from resources.sample_store import SampleStore

NOW = datetime(2026, 7, 6, 2, 0, tzinfo=UTC)
NIGHTS = dg.AssetKey(["dusk", "nights"])


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with a config and two manifests in its store; nothing has run."""
    write_config(tmp_path)
    store = SampleStore(str(tmp_path / "store"))
    row = {"sample_id": "a", "fingerprint": "1", "image_hash": "i", "mask_hash": "m", "labels_version": "1",
           "labelled": True, "quarantined": False}  # fmt: skip
    for key in ("source", "dusk"):
        store.table(key, "manifest").upsert(pl.DataFrame([row]))
    return tmp_path


def write_config(root: Path, **changes: object) -> GapConfig:
    (root / "data").mkdir(exist_ok=True)
    raw = {
        "store": str(root / "store"), "classes": ["road", "sky"],
        "source": {"name": "day", "reader": "folder", "root": "data"},
        "targets": [{"name": "dusk", "reader": "folder", "root": "data"}], "experiments": {"only": ["exposure"]},
        **changes,
    }  # fmt: skip
    (root / "gap.yaml").write_text(yaml.safe_dump(raw))
    return load_config(root / "gap.yaml")


def write_night(config: GapConfig, time: datetime, gap: float = 0.3) -> None:
    """An entry with a gap in the history of `dusk`."""
    counts = SetCounts(name="dusk", samples=1, labelled=1, quarantined=0)
    figures = NightFigures(headline="It loses.", source="day", target="dusk", schema_version="1", loss_gap=gap,
                           unexplained=Estimate(value=None), recipe_closes=Estimate(value=None))  # fmt: skip
    night = Night(time=time, outcome="reported", figures=figures, source=counts, target=counts)
    row = dict.fromkeys(SCHEMA) | {"night": night.id, "entry": night.model_dump_json()}
    history_table(SampleStore(config.store), "dusk").upsert(pl.DataFrame([row], schema=SCHEMA))


def finish(config: GapConfig, instance: dg.DagsterInstance, outcome: Outcome, now: datetime) -> None:
    finish_check(Rerun(build_defs(config), instance), config, outcome, ["dusk"], now, now)


def test_a_quiet_check_is_a_night_in_history_pages_and_dagster(root):
    config, instance = write_config(root), dg.DagsterInstance.ephemeral()
    write_night(config, NOW)
    finish(config, instance, Outcome(), NOW + timedelta(days=1))
    nights = read_history(SampleStore(config.store), "dusk")
    assert [night.outcome for night in nights] == ["reported", "unchanged"]
    [record] = instance.fetch_materializations(NIGHTS, limit=5).records
    shown = record.asset_materialization.metadata
    assert shown["loss_gap"].value == 0.3 and shown["samples"].value == 1 and shown["outcome"].value == "unchanged"
    assert shown["what_changed"].value.startswith("- ")
    for page in ("index.html", "dusk/trend.html"):
        assert (root / "store" / "reports" / page).exists()


def test_a_failed_check_says_what_stopped_it(root):
    config, instance = write_config(root), dg.DagsterInstance.ephemeral()
    outcome = Outcome(
        blocked={dg.AssetKey(["dusk", "gap_report"]): "an asset that it depends on failed"},
        failed={dg.AssetKey(["dusk", "embeddings"]): "out of memory", dg.AssetKey(["rain", "traits"]): "not ours"},
        failed_checks={"dusk/manifest: quarantine_share": "9% are unusable"},
    )  # fmt: skip
    finish(config, instance, outcome, NOW)
    [night] = read_history(SampleStore(config.store), "dusk")
    assert night.outcome == "failed" and night.figures is None
    assert night.problem == "dusk/embeddings: out of memory; dusk/manifest: quarantine_share: 9% are unusable"


def test_a_target_that_was_never_seen_gets_no_entry(root):
    config = write_config(root)
    store = SampleStore(config.store)
    shutil.rmtree(store.table("dusk", "manifest").url)
    instance = dg.DagsterInstance.ephemeral()
    finish(config, instance, Outcome(), NOW)
    assert read_history(store, "dusk") == [] and not instance.fetch_materializations(NIGHTS, limit=1).records
    assert "never" in (root / "store" / "reports" / "index.html").read_text()


@pytest.mark.parametrize(
    ("changes", "hours"),
    [
        ({}, 30),
        ({"schedule": {"cron": "30 1 * * 1-5"}}, 90),
        ({"schedule": {"cron": "0 * * * *"}}, 1.25),
        ({"alerts": {"no_check_hours": 8}}, 8),
    ],
)
def test_a_night_is_missed_after_the_schedules_longest_pause(root, changes, hours):
    assert missed_after(write_config(root, **changes)) == timedelta(hours=hours)


def test_dagsters_own_freshness_fails_for_a_missed_night(root):
    """As the freshness daemon evaluates it, which runs in the open source release too."""
    import asyncio

    from dagster._core.definitions.freshness_evaluator import TimeWindowFreshnessPolicyEvaluator
    from dagster._core.test_utils import freeze_time

    from pipelines.staleness import _Loading

    def state(config: GapConfig) -> str:
        node = build_defs(config).resolve_asset_graph().get(NIGHTS)
        assert not node.is_executable
        found = TimeWindowFreshnessPolicyEvaluator().evaluate_freshness(context=_Loading(instance), node=node)
        return asyncio.run(found).value

    config, instance = write_config(root), dg.DagsterInstance.ephemeral()
    assert state(config) == "UNKNOWN"
    finish(config, instance, Outcome(), NOW)
    assert state(config) == "PASS"
    with freeze_time(datetime.now(UTC) + timedelta(hours=29)):
        assert state(config) == "PASS"
    with freeze_time(datetime.now(UTC) + timedelta(hours=31)):
        assert state(config) == "FAIL"


def test_the_sensor_fails_the_check_of_a_missed_night(root):
    config, instance = write_config(root), dg.DagsterInstance.ephemeral()
    sensor = build_defs(config).get_sensor_def("watch_nights")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert build_defs(write_config(root, schedule={"enabled": True})).get_sensor_def("watch_nights").default_status == (
        dg.DefaultSensorStatus.RUNNING
    )

    def evaluated() -> dg.AssetCheckEvaluation:
        with dg.build_sensor_context(instance=instance) as context:
            [event] = sensor.evaluate_tick(context).asset_events
        assert (event.asset_key, event.check_name) == (NIGHTS, NO_MISSED_NIGHT)
        return event

    event = evaluated()
    assert not event.passed and event.description == "no check was ever made; run: domain-gap run"
    write_night(config, datetime.now(UTC) - timedelta(hours=40))
    event = evaluated()
    assert not event.passed and event.description == "the last check was 40.0 hours ago, at most 30.0 hours are allowed"
    write_night(config, datetime.now(UTC) - timedelta(hours=1))
    assert evaluated().passed


def test_the_check_runs_by_itself_too(root):
    config = write_config(root)
    write_night(config, NOW)
    [check] = build_checks(config)
    result = check(SampleStore(config.store), Clock(NOW + timedelta(hours=31)))
    assert not result.passed and "31.0 hours ago" in result.description


class TestAlertCommand:
    def call(self, root: Path, *arguments: str):
        return CliRunner().invoke(app, ["alert", "-c", str(root / "gap.yaml"), *arguments])

    def test_without_addresses_a_test_is_bad_usage(self, root):
        write_config(root)
        result = self.call(root, "--test")
        assert isinstance(result.exception, ConfigError) and "alerts.notify: no address" in str(result.exception)

    def test_a_test_reaches_every_address_and_names_those_that_refuse(self, root, receiver):
        address, received = receiver
        write_config(root, alerts={"notify": [address, f"{address}/refuse/HIDDEN"], "link": "https://gap.example"})
        result = self.call(root, "--test")
        assert result.exit_code == 1 and "test alert sent to 1 of 2 addresses" in result.output
        assert "entries 2 of alerts.notify" in result.output and "HIDDEN" not in result.output
        [message] = received
        assert message["title"] == "Domain Gap: a test alert"
        assert message["message"].endswith("https://gap.example/dusk/trend.html")

    def test_rules_are_held_against_the_store_and_sent_once(self, root, receiver):
        address, received = receiver
        config = write_config(root, alerts={"loss_gap": 0.2, "no_check_hours": 30, "notify": [address]})
        assert self.call(root).exit_code == 0, "there is nothing to hold them against"
        write_night(config, datetime.now(UTC) - timedelta(hours=50))
        for _ in range(2):
            result = self.call(root)
            assert result.exit_code == 1
            assert "dusk: no check for 50 hours (at most 30)" in result.output
        [message] = received
        assert message["message"].startswith("It loses.\nno check for 50 hours")
        assert "loss gap 0.300 is above 0.200" in message["message"]


def test_compare_prints_what_changed_and_where_the_page_is(root):
    config = write_config(root)
    write_night(config, NOW)
    result = CliRunner().invoke(app, ["compare", "-c", str(root / "gap.yaml")], catch_exceptions=False)
    assert result.output.splitlines() == [
        "dusk: It loses.", "  This is the first check: there is nothing to compare it with.",
        str(root / "store" / "reports" / "index.html"),
    ]  # fmt: skip
