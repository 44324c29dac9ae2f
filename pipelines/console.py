"""The terminal while a run goes on: which assets run, and how far long loops are.

Belongs here: rich bars. Does not: the loop, final words (`cli.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resources.progress import Advance, progress_to

if TYPE_CHECKING:
    import dagster as dg

    from pipelines.rerun import Listener

SHOWN = 4


@contextmanager
def live_progress() -> Iterator[Listener]:
    """Bars for long loops, and a line for each level of assets; lines alone where there is no terminal."""
    console = Console(stderr=True)

    def listen(what: str, keys: Sequence[dg.AssetKey]) -> None:
        names = ["/".join(key.path) for key in keys]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        console.print(f"{what:8}{', '.join(names[:SHOWN])}{more}", highlight=False)

    if not console.is_terminal:
        yield listen
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
