"""The pages over a store: `index.html` compares all targets, `trend.html` shows one target night by night.

Belongs here: what the two pages show of the histories, rendering their templates. Does not: comparing nights
(`changes.py`), drawing (`trend_figures.py`), the report's own page (`page.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from assets.report.changes_told import told_changes, told_samples
from assets.report.document import Estimate
from assets.report.history import read_history
from assets.report.night import CauseFigure, Night, NightFigures
from assets.report.page import environment, own_file, security_policy
from assets.report.trend_figures import gap_chart, volume_chart
from resources.config import GapConfig
from resources.sample_store import SampleStore

WIDE, NARROW = 900.0, 350.0
SHOWN_NIGHTS, SHOWN_NARROW, SHOWN_CAUSE_NIGHTS = 60, 14, 14


def write_nights_pages(config: GapConfig, store: SampleStore) -> list[TargetRow]:
    """`reports/index.html` over all targets of a config, and each one's `reports/<target>/trend.html`."""
    histories = {target.name: read_history(store, target.name) for target in config.targets}
    late = config.alerts.no_check_hours
    for key, nights in histories.items():
        if nights:
            store.write(render_trend(key, nights, late), "reports", key, "trend.html")
    store.write(render_compare(config.source.name, histories, late), *INDEX)
    return target_rows(histories)


INDEX = ("reports", "index.html")


# --- all targets -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FamilyCell:
    """What is known of a family of causes on one target; `rank` orders cells, None where nothing was tried."""

    verdict: str
    remedy: bool
    share: Estimate | None
    titles: list[str]

    @property
    def rank(self) -> float | None:
        """Root causes by their share, then remedies, then what is open, then what is refuted."""
        if self.verdict == "skipped":
            return None
        base = {"confirmed": 20.0, "inconclusive": 10.0, "refuted": 0.0}[self.verdict]
        value = self.share.value if self.share is not None else None
        return base + (0.0 if self.remedy else 10.0) * (self.verdict == "confirmed") + min(max(value or 0.0, -4.0), 4.0)


@dataclass(frozen=True)
class TargetRow:
    """One target in the matrix."""

    key: str
    last: Night | None
    figures: NightFigures | None
    moved: str
    cells: dict[str, FamilyCell]
    changes: list[str]


def target_rows(histories: Mapping[str, Sequence[Night]]) -> list[TargetRow]:
    """The latest night of every target; those never checked have none."""
    rows = []
    for key, nights in histories.items():
        last = nights[-1] if nights else None
        figures = last.figures if last is not None else None
        rows.append(TargetRow(
            key, last, figures, told_samples(last.target) if last is not None else "", family_cells(figures),
            told_changes(list(nights)) if nights else [],
        ))  # fmt: skip
    return rows


def family_cells(figures: NightFigures | None) -> dict[str, FamilyCell]:
    """A target's families of causes: the word that weighs most, and its share."""
    found: dict[str, FamilyCell] = {}
    causes = figures.causes if figures is not None else []
    for family in dict.fromkeys(cause.family for cause in causes):
        members = sorted((cause for cause in causes if cause.family == family), key=_weight)
        first = members[0]
        alike = [cause.title for cause in members if (cause.verdict, cause.root) == (first.verdict, first.root)]
        share = figures.shares.get(family) if figures is not None and first.root else None
        own = Estimate(value=first.share, ci95=first.ci95, estimated=figures is not None and figures.estimated)
        found[family] = FamilyCell(
            first.verdict, first.verdict == "confirmed" and not first.root,
            (share or own) if first.verdict != "skipped" else None, alike,
        )  # fmt: skip
    return found


def _weight(cause: CauseFigure) -> tuple[bool, int, float]:
    order = ("confirmed", "inconclusive", "refuted", "skipped")
    return not cause.root, order.index(cause.verdict), -(cause.share or 0.0)


def render_compare(source: str, histories: Mapping[str, Sequence[Night]], late: float | None) -> str:
    """The whole of `index.html`. `late`: hours after which a check is marked as overdue."""
    rows = target_rows(histories)
    families = list(dict.fromkeys(family for row in rows for family in row.cells))
    shown = [name for name in families if any(row.cells.get(name, _NOTHING).rank is not None for row in rows)]
    return _render("compare.html.j2", source=source, rows=rows, families=shown, late=late,
                   skipped=[name for name in families if name not in shown], reach=_reach(rows))  # fmt: skip


def _reach(rows: Sequence[TargetRow]) -> tuple[float, float]:
    """The range of loss gaps that all rows' intervals share; it holds 0."""
    known = [row.figures for row in rows if row.figures is not None and row.figures.loss_gap is not None]
    ends = [end for figures in known for end in (figures.loss_gap, *(figures.ci95 or ())) if end is not None]
    return min([0.0, *ends]), max([0.01, *ends])


_NOTHING = FamilyCell("skipped", remedy=False, share=None, titles=[])


# --- one target ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CauseHistory:
    """A cause that was confirmed on some night, and what was known of it on each."""

    title: str
    nights: list[CauseFigure | None]


def cause_histories(nights: Sequence[Night]) -> list[CauseHistory]:
    """Causes confirmed on any of some nights, the latest first; those that are root causes on it come first, too."""
    by_night = [{cause.id: cause for cause in night.figures.causes} if night.figures is not None else {}
                for night in nights]  # fmt: skip
    known = {name: cause for one in reversed(by_night) for name, cause in one.items()}
    ever = [name for name in known if any(one[name].verdict == "confirmed" for one in by_night if name in one)]
    last = by_night[0] if by_night else {}
    ever.sort(key=lambda name: (not (name in last and last[name].root), -(known[name].share or 0.0)))
    return [CauseHistory(known[name].title, [one.get(name) for one in by_night]) for name in ever]


def render_trend(key: str, nights: Sequence[Night], late: float | None) -> str:
    """The whole of `trend.html` of a target's nights, oldest first, at least one."""
    shown = list(nights[-SHOWN_NIGHTS:])
    told = [(night, told_changes(list(nights[: place + 1])))
            for place, night in enumerate(nights) if place >= len(nights) - SHOWN_NIGHTS]  # fmt: skip
    charts = [(name, gap_chart(part, width), volume_chart(part, width))
              for name, part, width in (("wide", shown, WIDE), ("narrow", shown[-SHOWN_NARROW:], NARROW))]  # fmt: skip
    recent = list(reversed(shown[-SHOWN_CAUSE_NIGHTS:]))
    return _render(
        "trend.html.j2", key=key, last=nights[-1], figures=nights[-1].figures, total=len(nights), first=nights[0],
        told=list(reversed(told)), charts=charts, recent=recent, causes=cause_histories(recent),
        nights=list(reversed(shown)), late=late, moved=told_samples,
    )  # fmt: skip


def _render(template: str, **shown: object) -> str:
    script = own_file("tables.js") + own_file("nights.js")
    style = own_file("report.css")
    page = environment().get_template(template).render(
        policy=security_policy([script], style), script=Markup(script), style=Markup(style), told_time=told_time,  # noqa: S704 -- our own files
        **shown,
    )  # fmt: skip
    return page.encode("utf-8", "replace").decode("utf-8")  # names from a file system may hold lone surrogates


def told_time(time: datetime) -> str:
    """A night's time as the pages write it."""
    return f"{time:%Y-%m-%d %H:%M} UTC"
