"""Rules on a target's nights, their cool-downs in the store, and messages that reach a real server."""

from __future__ import annotations

from datetime import timedelta

import pytest
from message_receiver import receiver

from assets.report.alerts import found_alerts
from assets.report.history import read_history
from assets.report.telling import tell_alerts, trend_link
from resources.config import AlertsConfig
from resources.notifications import Notifier
from resources.sample_store import SampleStore


@pytest.fixture
def server():
    """An apprise address on this machine, and what was taken there; 'refuse' in the path answers 500."""
    with receiver() as found:
        yield found.address, found.accepted


def found(street, now=None, **rules) -> list[str]:
    """What the last night breaks, from the history as it is."""
    config = street.config.model_copy(update={"alerts": AlertsConfig.model_validate(rules)})
    nights = read_history(street.store, "dusk")
    return [alert.text for alert in tell_alerts(config, street.store, "dusk", Notifier(), now or nights[-1].time)]


def test_levels_and_the_recipes_drop_are_held_against_the_last_night(street):
    assert found_alerts([], AlertsConfig(loss_gap=0.0), street.time(0), lambda *_: []) == []
    street.night(0, {"exposure": ("confirmed", 0.5)})
    street.night(1, {"exposure": ("confirmed", 0.2)}, auroc=(0.9, (0.85, 0.95)))
    gap = read_history(street.store, "dusk")[-1].figures.loss_gap
    assert found(street, loss_gap=gap + 0.01, knn_auroc=0.95, gap_closed_drop=0.4) == []
    assert found(street, loss_gap=gap - 0.01, knn_auroc=0.8, gap_closed_drop=0.2) == [
        f"loss gap {gap:.3f} is above {gap - 0.01:.3f}", "kNN AUROC 0.900 is above 0.800",
        "the recipe closes 20% of the gap, 30% less than before",
    ]  # fmt: skip


def test_a_change_is_against_the_median_of_the_last_nights_and_beyond_noise(street):
    for number in range(3):
        street.night(number, {"exposure": ("inconclusive", 0.1 + number / 100)})
    rule = {"change": {"nights": 3, "loss_gap": 0.03}}
    assert found(street, **rule) == []
    street.target = {name: (drive, loss + 0.05, content) for name, (drive, loss, content) in street.target.items()}
    street.night(3)
    [text] = found(street, **rule)
    assert text.startswith("loss gap rose from a median of 0.") and "over the last 3 nights" in text
    assert "(+0.050, beyond its noise)" in text
    assert found(street, change={"nights": 3, "loss_gap": 0.06}) == [], "too small to tell"
    assert len(found(street, change={"nights": 1, "loss_gap": 0.03})) == 1
    street.target |= {f"new_{i}": ("one drive", 1.5, "new") for i in range(15)}
    street.night(4)
    assert found(street, change={"nights": 1, "loss_gap": 0.03}) == [], "one drive may be about that drive alone"


def test_only_a_cause_that_was_none_before_is_new(street):
    street.night(0, {"haze": ("confirmed", 0.3), "exposure": ("inconclusive", 0.2)})
    assert found(street, new_cause=True) == [], "the first report is read anyway"
    street.night(1, {"haze": ("confirmed", 0.3), "exposure": ("confirmed", 0.4)})
    assert found(street, new_cause=True) == ["new confirmed cause: Exposure"]
    assert found(street) == []
    street.quiet(2)
    assert found(street, new_cause=True) == []


def test_failing_data_checks_of_severity_error_are_told(street):
    row = {"passed": False, "detail": "many.", "samples": []}
    street.store.write_json(
        [{**row, "name": "quarantine_share", "severity": "ERROR"}, {**row, "name": "same_picture", "severity": "WARN"}],
        "quality", "dusk.json",
    )  # fmt: skip
    street.night(0)
    assert found(street, quality=True) == ["data check quarantine share fails on dusk: many"]


def test_a_check_that_is_overdue_is_told_with_its_age(street):
    street.night(0)
    assert found(street, now=street.time(1), no_check_hours=30) == []
    assert found(street, now=street.time(2), no_check_hours=30) == [
        "no check for 48 hours (at most 30): the last was at 2026-07-01 02:00 UTC"
    ]


def test_each_rule_is_silent_for_its_cool_down_and_no_longer(street, server):
    address, received = server
    rules = {"loss_gap": 0.01, "new_cause": True, "cooldown_hours": {"loss_gap": 36}, "notify": [address],
             "link": "https://gap.example/reports/"}  # fmt: skip
    config = street.config.model_copy(update={"alerts": AlertsConfig.model_validate(rules)})
    notifier = Notifier(config.alerts.addresses)

    def tell(number: float) -> list[str]:
        before = len(received)
        now = street.time(0) + timedelta(days=number)
        assert tell_alerts(config, street.store, "dusk", notifier, now), "the rule stays broken, told or not"
        return [entry["message"] for entry in received[before:]]

    street.night(0)
    headline = read_history(street.store, "dusk")[0].figures.headline
    [text] = tell(0)
    assert text.splitlines()[0] == headline and "is above 0.010" in text.splitlines()[1]
    assert text.splitlines()[2] == "https://gap.example/reports/dusk/trend.html"
    assert tell(1) == []
    street.night(1.2, {"exposure": ("confirmed", 0.4)})
    [text] = tell(1.2)
    assert "new confirmed cause: Exposure" in text and "loss gap" not in text, "another rule has its own cool-down"
    street.quiet(1.6)
    assert "loss gap" in tell(1.6)[0]
    assert set(street.store.read_json("alerts", "dusk.json")) == {"loss_gap", "new_cause/exposure"}


def test_what_was_not_taken_is_sent_again(street, server):
    address, received = server
    street.night(0)
    for path, count in (("/refuse/HIDDEN", 0), ("", 1)):
        rules = AlertsConfig.model_validate({"loss_gap": 0.01, "notify": [address + path]})
        config = street.config.model_copy(update={"alerts": rules})
        tell_alerts(config, street.store, "dusk", Notifier(rules.addresses), street.time(0))
        assert len(received) == count
    assert "HIDDEN" not in street.store.read("alerts", "dusk.json").decode()


def test_the_link_holds_no_credentials():
    rules = AlertsConfig()
    assert trend_link(SampleStore("/data/gap"), "dusk", rules) == "/data/gap/reports/dusk/trend.html"
    store = SampleStore("s3://me:secret@bucket/gap")
    assert trend_link(store, "dusk", rules) == "s3://bucket/gap/reports/dusk/trend.html"


def test_seven_nights_tell_of_the_fifth_and_once(street, server):
    """Pictures come and go; on night five all of the target changes and a cause is confirmed; then it stays so."""
    address, received = server
    rules = {"change": {"nights": 4, "loss_gap": 0.05}, "new_cause": True, "notify": [address],
             "cooldown_hours": {"change": 72}}  # fmt: skip
    config = street.config.model_copy(update={"alerts": AlertsConfig.model_validate(rules)})
    told, weak, strong = {}, {"exposure": ("inconclusive", 0.1)}, {"exposure": ("confirmed", 0.5)}

    def come(number: int) -> None:
        street.target |= {f"n{number}_{i}": (f"dusk_{i}", 0.47, "c") for i in range(4)}

    def go(number: int) -> None:
        for name in [name for name in street.target if name.endswith(f"00{number}")][:3]:
            del street.target[name]

    def plant(_: int) -> None:
        street.target = {name: (drive, loss + 0.2, "dark") for name, (drive, loss, _) in street.target.items()}

    for number, step in enumerate((come, come, None, go, plant, None, go), 1):
        if step is None:
            street.quiet(number)
        else:
            step(number)
            street.night(number, weak if number < 5 else strong)
        before = len(received)
        tell_alerts(config, street.store, "dusk", Notifier(config.alerts.addresses), street.time(number))
        told[number] = [entry["message"].splitlines()[1] for entry in received[before:]]
    assert [number for number in told if told[number]] == [5]
    [text] = told[5]
    assert "loss gap rose from a median of" in text and "new confirmed cause: Exposure" in text
    nights = read_history(street.store, "dusk")
    assert [(one.target.added, one.target.removed, one.target.changed) for one in nights] == [
        (0, 0, 0), (4, 0, 0), (0, 0, 0), (0, 3, 0), (0, 0, 85), (0, 0, 0), (0, 3, 0),
    ]  # fmt: skip
