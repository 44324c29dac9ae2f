"""What changed since the night before, as sentences.

Belongs here: words. Does not: deciding what changed (`changes.py`), markup.
"""

from __future__ import annotations

from collections.abc import Iterator

from assets.report.changes import GAP
from assets.report.night import FigureChange, Flip, Night, SetCounts
from assets.report.page import number, percent, signed

SHARES = ("share/", "unexplained", "recipe")
NAMED = 3
"""Samples, and figures beyond the gap, that a sentence names one by one."""


def told_changes(nights: list[Night]) -> list[str]:
    """What the last of some nights, oldest first, found different from the one before it; never empty."""
    night = nights[-1]
    if len(nights) == 1:
        return ["This is the first check: there is nothing to compare it with.", *_problems(night, None)]
    before = nights[-2]
    found = [*_problems(night, before), *_samples(night.target), *_samples(night.source), *_gap(night),
             *_contributions(night), *_flips(night), *_others(night)]  # fmt: skip
    if not found and night.outcome == "reported":
        return ["No picture came, went or changed; the report was made anew, and no figure is another."]
    return found or ["Nothing: the same pictures, and so the same figures."]


def told_samples(counts: SetCounts) -> str:
    """A set's movement in short: '+3 −1, 2 changed'; '' where nothing moved."""
    parts = [f"+{counts.added}" if counts.added else "", f"−{counts.removed}" if counts.removed else ""]
    text = " ".join(part for part in parts if part)
    changed = f"{counts.changed} changed" if counts.changed else ""
    return ", ".join(part for part in (text, changed) if part)


def _problems(night: Night, before: Night | None) -> Iterator[str]:
    if night.outcome == "failed":
        last = "the figures are those of the last report" if night.figures is not None else "there are no figures yet"
        yield f"No report could be made, so {last}: {night.problem.rstrip('.')}."
    known = {(check.dataset, check.name) for check in before.failed_checks} if before is not None else set()
    now = {(check.dataset, check.name): check.detail for check in night.failed_checks}
    for dataset, name in sorted(now.keys() - known):
        detail = now[dataset, name].rstrip(".")
        yield f"The data check {name.replace('_', ' ')} fails on {dataset}{f': {detail}' if detail else ''}."
    for dataset, name in sorted(known - now.keys()):
        yield f"The data check {name.replace('_', ' ')} passes again on {dataset}."


def _samples(counts: SetCounts) -> Iterator[str]:
    if not counts.moved:
        return
    kinds = [(kind, getattr(counts, kind)) for kind in ("added", "removed", "changed") if getattr(counts, kind)]
    told = [f"{count:,} {kind}{_named(counts.names.get(kind, []), count)}" for kind, count in kinds]
    yield f"Pictures of {counts.name}: {_listed(told)}; it has {counts.samples:,} now."


def _named(names: list[str], count: int) -> str:
    return f" ({', '.join(names)})" if 0 < count <= min(NAMED, len(names)) else ""


def _gap(night: Night) -> Iterator[str]:
    for change in night.changes:
        if change.key == GAP and change.difference != 0:
            yield (
                f"The {_estimated(night)}loss gap went from {signed(change.before)} to {signed(change.after)} "
                f"({_difference(change)}): {_noise(change)}."
            )


def _estimated(night: Night) -> str:
    return "estimated " if night.figures is not None and night.figures.estimated else ""


def _difference(change: FigureChange) -> str:
    size = percent if change.key.startswith(SHARES) else number
    sign = "+" if change.difference > 0 else ""
    text = f"{sign}{size(change.difference)}"
    if change.ci95 is None:
        return text
    bounds = [f"{'+' if bound > 0 else ''}{size(bound)}" for bound in change.ci95]
    return f"{text}, 95% interval {bounds[0]} to {bounds[1]}"


def _noise(change: FigureChange) -> str:
    if change.ci95 is None:
        return "too few groups to tell it from chance"
    return "beyond its noise" if change.beyond_noise else "within its noise"


def _contributions(night: Night) -> Iterator[str]:
    """What the target's new, gone and changed samples lose beside those that stayed; nothing where none moved."""
    rows = {row.kind: row for row in night.contributions}
    told = [
        f"the {rows['added'].samples:,} added lose {number(rows['added'].loss_after)}" if "added" in rows else "",
        f"the {rows['removed'].samples:,} removed lost {number(rows['removed'].loss_before)}"
        if "removed" in rows else "",
        f"the {rows['changed'].samples:,} changed went from {number(rows['changed'].loss_before)} to "
        f"{number(rows['changed'].loss_after)}" if "changed" in rows else "",
    ]  # fmt: skip
    told = [text for text in told if text]
    kept = rows.get("kept")
    if not told and (kept is None or kept.loss_before == kept.loss_after):
        return
    if kept is not None:
        before, after = number(kept.loss_before), number(kept.loss_after)
        stayed = f"still lose {after}" if before == after else f"went from {before} to {after}"
        told.append(f"the {kept.samples:,} kept {stayed}")
    yield f"Mean loss of the target’s labelled pictures: {_listed(told)}."


def _flips(night: Night) -> Iterator[str]:
    for flip in night.flips:
        yield f"{flip.title[:1].upper()}{flip.title[1:]}: {_flipped(flip)}{_share(flip)}."


def _flipped(flip: Flip) -> str:
    if flip.root_before != flip.root_after:
        word = "a root cause now" if flip.root_after else "no root cause any more"
        same = flip.before == flip.after
        return word if same else f"{word} ({_word(flip.before)} → {_word(flip.after)})"
    return f"{_word(flip.before)} → {_word(flip.after)}"


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _word(verdict: str | None) -> str:
    return verdict or "not tried"


def _share(flip: Flip) -> str:
    if flip.share_before is None and flip.share_after is None:
        return ""
    if flip.share_before is None:
        return f", with {percent(flip.share_after)} of the gap"
    if flip.share_after is None:
        return f", its share was {percent(flip.share_before)} of the gap"
    shares = f", its share of the gap {percent(flip.share_before)} → {percent(flip.share_after)}"
    if flip.share_moved is None:
        return shares
    near = "within its noise, so it stands near the border of its verdict"
    return f"{shares}, {'beyond its noise' if flip.share_moved else near}"


def _others(night: Night) -> Iterator[str]:
    """Figures besides the gap that moved beyond their noise."""
    moved = [one for one in night.changes if one.key != GAP and one.beyond_noise]
    for change in moved[:NAMED]:
        size = percent if change.key.startswith(SHARES) else number
        yield f"{change.label}: {size(change.before)} → {size(change.after)} ({_difference(change)}), beyond its noise."
    if len(moved) > NAMED:
        yield f"Beyond their noise, too: {_listed([change.label for change in moved[NAMED:]])}."
