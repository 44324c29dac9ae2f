"""Rows on their way to tables: committed in the background, so that a pass does not wait for its store.

Belongs here: the thread that commits, its bounds, and how its failures surface.
Does not: tables themselves (sample_store.py), what rows hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import polars as pl

from resources.sample_store import SampleTable

EVERY_SECONDS = 2.0
"""Rows wait at most so long for rows that come after them: what a kill costs, besides what is being computed."""
MOST_BYTES = 64 << 20
"""Of rows that wait; whoever brings more waits, too."""


class Commits:
    """Rows that wait for their commit, by table. Use `committing`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[SampleTable, list[pl.DataFrame], Collection[str]]] = {}
        self._bytes = 0
        self._closed = False
        self._failure: BaseException | None = None

    def put(self, table: SampleTable, rows: pl.DataFrame, *, new: Collection[str] = ()) -> None:
        """Rows to upsert (see `SampleTable.upsert`). Raises what an earlier commit failed by."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < MOST_BYTES or self._failure is not None)
            self.check()
            self._waiting.setdefault(table.url, (table, [], new))[1].append(rows)
            self._bytes += int(rows.estimated_size())
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what a commit failed by."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """No more rows come: commit those that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Commit until closed, each table at most once in `EVERY_SECONDS`; the body of the thread."""
        last = -EVERY_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                left = last + EVERY_SECONDS - time.monotonic()
                self._changed.wait_for(lambda: self._closed or self._bytes >= MOST_BYTES, timeout=max(0.0, left))
                due, self._waiting = self._waiting, {}
                if not due:
                    return
            last = time.monotonic()
            try:
                for table, rows, new in due.values():
                    table.upsert(pl.concat(rows), new=new)
            except BaseException as error:  # surfaces in the thread that brings rows
                self._failure = error
            with self._changed:
                self._bytes = sum(int(rows.estimated_size()) for _, more, _ in self._waiting.values() for rows in more)
                self._changed.notify_all()
                if self._failure is not None:
                    return


@contextmanager
def committing() -> Iterator[Commits]:
    """Commit rows in the background; on leaving, all are committed, also where the block failed.

    Raises what a commit failed by, at the next `put` or on leaving.
    """
    commits = Commits()
    thread = threading.Thread(target=commits.run, name="commits", daemon=True)
    thread.start()
    try:
        yield commits
    finally:
        commits.close()
        thread.join()
    commits.check()
