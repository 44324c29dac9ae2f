"""The terminal while a run goes on: which assets run, and how far long loops are.

Belongs here: rich bars, tables of what was compared. Does not: the loop, final words (`cli.py`), comparing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from resources.errors import printable
from resources.progress import Advance, progress_to

if TYPE_CHECKING:
    import dagster as dg

    from assets.report.agreement import Agreement
    from pipelines.check import Finding
    from pipelines.rerun import Listener

SHOWN = 4
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def live_progress() -> Iterator[Listener]:
    """Bars for long loops, and a line for each level of assets; lines alone where there is no terminal."""
    console = Console(stderr=True)

    def listen(what: str, keys: Sequence[dg.AssetKey]) -> None:
        names = ["/".join(key.path) for key in keys]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        console.print(f"{what:8}{', '.join(names[:SHOWN])}{more}", highlight=False)

    if not console.is_terminal:
        with progress_to(lambda what, total: _Lines(console, what, total).advance):
            yield listen
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def sink(what: str, total: int) -> Advance:
            task = progress.add_task(what, total=total, visible=total > 0)
            left = total

            def advance(done: int) -> None:
                nonlocal left
                left -= done
                progress.update(task, advance=done, visible=left > 0)

            return advance

        with progress_to(sink):
            yield listen


@contextmanager
def no_progress() -> Iterator[Listener]:
    """Nothing at all, for scripts."""
    yield lambda _what, _keys: None


class _Rate(ProgressColumn):
    """Units a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class _Lines:
    """Progress where there is no terminal: a line every half minute with count, rate and time left."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console, self._what, self._total = console, what, total
        self._done = 0
        self._began = self._told = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES or self._done >= self._total:
            return
        self._told = now
        rate = self._done / (now - self._began)
        left = timedelta(seconds=round((self._total - self._done) / rate))
        self._console.print(
            f"{self._what}: {self._done} of {self._total}, {rate:.1f}/s, {left} left", highlight=False, soft_wrap=True
        )


MARKS = {"fine": "ok", "note": "note", "wrong": "WRONG"}


def print_finding(finding: Finding) -> None:
    """One line on what was looked at, and a second one on what to do."""
    console = Console()
    styles = {"fine": "", "note": "yellow", "wrong": "bold red"}
    mark = Text(f"{MARKS[finding.level]:6}", style=styles[finding.level])
    console.print(mark + Text(printable(f"{finding.about}: {finding.text}")), soft_wrap=True)
    if finding.fix:
        console.print(Text(printable(f"       → {finding.fix}")), soft_wrap=True)


WORDS = ("confirmed", "refuted", "inconclusive", "skipped")


def print_agreement(found: Agreement) -> None:
    """Tables of a target against its twin with hidden labels: figures, words, changes of loss, single pictures."""
    console = Console()
    for table in (_figures(found), _words(found), _changes(found)):
        console.print(table)
    ran = len(found.changes)
    contradicted = ", ".join(found.contradicted) or "none"
    lines = [
        f"one word on both sides: {found.same_word} of {sum(found.verdicts.values())}; contradicted: {contradicted}",
        f"changes of loss with one sign: {found.same_sign} of {ran}; rank correlation {_number(found.change_rank, 2)}",
        f"single pictures' losses: rank correlation {_number(found.picture_rank, 2)} over {found.pictures}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _figures(found: Agreement) -> Table:
    table = Table("figure", f"{found.target}, true", f"{found.hidden}, estimated", "true inside the interval")
    inside = {True: "yes", False: "no", None: "–"}
    for pair in found.figures:
        true, estimated = _bounded(pair.true, pair.true_ci95), _bounded(pair.estimated, pair.estimated_ci95)
        table.add_row(pair.name, true, estimated, inside[pair.inside])
    return table


def _words(found: Agreement) -> Table:
    table = Table("with labels", *(f"{word}, hidden" for word in WORDS))
    for true in WORDS:
        counts = [found.verdicts.get((true, word), 0) for word in WORDS]
        if any(counts):
            table.add_row(true, *map(str, counts))
    return table


def _changes(found: Agreement) -> Table:
    table = Table("experiment", "change of the true loss", "of the estimated loss")
    for change in sorted(found.changes, key=lambda one: one.true):
        true, estimated = _bounded(change.true, change.true_ci95), _bounded(change.estimated, change.estimated_ci95)
        table.add_row(change.experiment, true, estimated)
    return table


def _bounded(value: float | None, bounds: tuple[float, float] | None) -> str:
    return _number(value, 3) + ("" if bounds is None else f" [{_number(bounds[0], 3)}, {_number(bounds[1], 3)}]")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
