"""Progress of long work: whoever runs it decides how it is shown.

Belongs here: the hook between loops that take long and the command line's bars or a run's log.
Does not: timing, logging of anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""
Sink = Callable[[str, int], Advance]
"""Called with what is done and how many units there are; returns what to call as they pass."""


def _silent(_what: str, _total: int) -> Advance:
    return lambda _done: None


_sink: ContextVar[Sink] = ContextVar("progress_sink", default=_silent)


@contextmanager
def progress_to(sink: Sink) -> Iterator[None]:
    """Show the progress of everything inside by `sink`."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


def track(
    items: Iterable[Item], what: str, total: int, size: Callable[[Item], int] = lambda _item: 1
) -> Iterator[Item]:
    """Pass items through, reporting after each; `size` is how many units an item counts for."""
    advance = _sink.get()(what, total)
    for item in items:
        yield item
        advance(size(item))
