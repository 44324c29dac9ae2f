"""A target's nights: what is recorded of a report and of a check that found nothing, and what is said of the change."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from assets.report.changes_told import told_changes, told_samples
from assets.report.history import history_table, read_history


def add(street, count: int, loss: float, drives: int = 6) -> None:
    """Pictures of new drives."""
    for i in range(count):
        street.target[f"new_{i:03d}"] = (f"new_{i % drives}", loss + 0.01 * (i % 5), f"content {i}")


def changed(street, loss: float) -> None:
    """Every picture of the target is another one, that loses so much more."""
    street.target = {name: (drive, value + loss, f"other {content}")
                     for name, (drive, value, content) in street.target.items()}  # fmt: skip


def test_the_same_report_is_one_night_and_a_quiet_check_is_another(street):
    first = street.night(0)
    assert street.night(0) == first == street.night(3), "recording again adds nothing"
    street.quiet(4)
    street.quiet(4)
    nights = read_history(street.store, "dusk")
    assert [(night.time, night.outcome) for night in nights] == [
        (street.time(0), "reported"), (street.time(4), "unchanged"),
    ]  # fmt: skip
    assert nights[1].figures == nights[0].figures and nights[1].fingerprint == nights[0].fingerprint
    assert told_changes(nights) == ["Nothing: the same pictures, and so the same figures."]
    assert told_changes(nights[:1])[0].startswith("This is the first check")


def test_a_check_that_recorded_a_report_is_not_noted_twice(street):
    street.night(1)
    street.quiet(1)
    assert len(read_history(street.store, "dusk")) == 1


def test_the_table_answers_queries_and_keeps_the_whole(street):
    street.night(0, {"exposure": ("confirmed", 0.3)})
    add(street, 3, 0.5)
    del street.target["dusk_0_000"]
    night = street.night(1, {"exposure": ("confirmed", 0.3)})
    rows = history_table(street.store, "dusk").read()
    assert rows["night"].to_list() == ["2026-07-01T02:00:00.000+00:00", "2026-07-02T02:00:00.000+00:00"]
    last = rows.row(1, named=True)
    assert (last["added"], last["removed"], last["changed"], last["target_samples"]) == (3, 1, 0, 82)
    assert last["root_causes"] == "exposure" and last["schema_version"] == night.figures.schema_version
    assert last["loss_gap"] == pytest.approx(night.figures.loss_gap)
    assert night.target.names == {"added": ["new_000", "new_001", "new_002"], "removed": ["dusk_0_000"]}
    assert told_samples(night.target) == "+3 −1"


def test_what_came_and_went_is_counted_since_the_night_before_even_one_without_a_report(street):
    street.night(0)
    add(street, 4, 0.5)
    street.write()
    street.quiet(1, problem="dusk/manifest: quarantine_share: too many")
    changed(street, 0.0)
    night = street.night(2)
    nights = read_history(street.store, "dusk")
    assert [(one.target.added, one.target.changed) for one in nights] == [(0, 0), (4, 0), (0, 84)]
    assert nights[1].outcome == "failed" and nights[1].figures == nights[0].figures
    assert [row.kind for row in night.contributions] == ["added", "changed"], "losses are held against the last figures"
    said = told_changes(nights[:2])
    assert said[0] == (
        "No report could be made, so the figures are those of the last report: dusk/manifest: quarantine_share: "
        "too many."
    )
    assert said[1] == "Pictures of dusk: 4 added; it has 84 now."


def test_a_report_that_comes_back_after_a_failed_night_is_a_night(street):
    street.night(0)
    street.quiet(1, problem="x")
    street.night(2)
    assert [night.outcome for night in read_history(street.store, "dusk")] == ["reported", "failed", "reported"]


def test_a_shift_of_all_drives_is_beyond_noise_and_its_interval_is_that_of_pairs(street):
    street.night(0)
    changed(street, 0.05)
    night = street.night(1)
    [gap] = [one for one in night.changes if one.key == "loss_gap"]
    assert gap.rule == "resampled" and gap.beyond_noise
    assert gap.difference == pytest.approx(0.05) and gap.ci95 == pytest.approx((0.05, 0.05), abs=1e-9)
    width = night.figures.ci95[1] - night.figures.ci95[0]
    assert width > 0.05, "the nights' own intervals would not have told them apart"
    assert any(text.startswith("The loss gap went from") and "beyond its noise" in text
               for text in told_changes(read_history(street.store, "dusk")))  # fmt: skip


def test_one_new_drive_stays_within_the_noise_however_much_it_loses(street):
    street.night(0)
    add(street, 20, 1.5, drives=1)
    night = street.night(1)
    gap = night.changes[0]
    assert gap.difference > 0.15 and not gap.beyond_noise
    said = told_changes(read_history(street.store, "dusk"))
    assert any("within its noise" in text for text in said)
    assert any("the 20 added lose 1.520" in text and "the 80 kept still lose 0.4" in text for text in said)


def test_a_change_of_the_holdout_counts_too(street):
    street.night(0)
    street.holdout = {name: (drive, loss + 0.1, content) for name, (drive, loss, content) in street.holdout.items()}
    night = street.night(1)
    assert night.changes[0].difference == pytest.approx(-0.1) and night.changes[0].beyond_noise
    assert [row.kind for row in night.contributions] == ["kept"]


def test_verdicts_that_flip_are_told_with_what_their_share_did(street):
    street.night(0, {"exposure": ("inconclusive", 0.1), "haze": ("confirmed", 0.21)})
    night = street.night(1, {"exposure": ("confirmed", 0.6), "haze": ("inconclusive", 0.2)})
    told = told_changes(read_history(street.store, "dusk"))
    assert [(flip.id, flip.root_before, flip.root_after) for flip in night.flips] == [
        ("exposure", False, True), ("haze", True, False),
    ]  # fmt: skip
    assert told[0] == (
        "Exposure: a root cause now (inconclusive → confirmed), its share of the gap 10% → 60%, beyond its noise."
    )
    assert told[1].endswith("21% → 20%, within its noise, so it stands near the border of its verdict.")


def test_other_figures_are_held_against_both_intervals(street):
    street.night(0)
    night = street.night(1, auroc=(0.9, (0.86, 0.94)))
    [auroc] = [one for one in night.changes if one.key == "latent/knn_auroc"]
    assert auroc.rule == "combined" and auroc.beyond_noise
    assert any(
        text.startswith("k-NN AUROC: 0.550 → 0.900") for text in told_changes(read_history(street.store, "dusk"))
    )


def test_failing_data_checks_are_told_once(street):
    row = {"name": "quarantine_share", "passed": False, "severity": "ERROR", "detail": "9% are unusable", "samples": []}
    street.night(0)
    street.store.write_json([row], "quality", "dusk.json")
    street.quiet(1)
    nights = read_history(street.store, "dusk")
    assert told_changes(nights) == ["The data check quarantine share fails on dusk: 9% are unusable."]
    street.quiet(2)
    assert told_changes(read_history(street.store, "dusk"))[0].startswith("Nothing")
    street.store.write_json([{**row, "passed": True}], "quality", "dusk.json")
    street.quiet(3)
    assert told_changes(read_history(street.store, "dusk")) == ["The data check quarantine share passes again on dusk."]


def test_without_the_earlier_states_the_gap_is_held_against_both_intervals(street):
    street.night(0)
    shutil.rmtree(street.store.table("dusk", "evaluation").url)
    changed(street, 0.05)
    night = street.night(1)
    assert night.changes[0].rule == "combined" and not night.changes[0].beyond_noise
    assert night.contributions == []


def test_an_entry_of_a_later_version_is_read_as_far_as_it_is_known(street):
    street.night(0)
    table = history_table(street.store, "dusk")
    row = table.read()
    more = row["entry"][0].replace('"outcome"', '"a_later_field": 1, "outcome"', 1)
    table.upsert(row.with_columns(entry=pl.lit(more), night=pl.lit("2026-07-09T02:00:00.000+00:00")))
    assert len(read_history(street.store, "dusk")) == 2


@pytest.mark.slow
def test_nights_that_differ_by_chance_alone_are_rarely_called_changed(street):
    """Pictures come and go, of the same drives and of new ones of the same kind: at most about one night in twenty."""
    from assets.report.changes import Losses, gap_difference_interval

    rng = np.random.default_rng(0)
    called, nights = 0, 400

    def frame(rows):
        return pl.DataFrame(rows, schema=["sample_id", "group", "loss"], orient="row")

    for _ in range(nights):
        level = rng.normal(0.5, 0.1, 16)
        pictures = [(f"{drive:02d}_{i}", str(drive), level[drive] + rng.normal(0, 0.1))
                    for drive in range(16) for i in range(8)]  # fmt: skip
        holdout = frame([(f"h{drive}", f"h{drive}", 0.4 + rng.normal(0, 0.1)) for drive in range(12)])
        before, after = frame(pictures[: 12 * 8]), frame(pictures[4 * 8 :])
        low, high = gap_difference_interval(Losses(holdout, before), Losses(holdout, after), draws=400, seed=1)
        called += not low <= 0 <= high
    assert 0.015 * nights < called < 0.08 * nights
