"""Batches that are worked on side by side, in order.

Belongs here: threads that each take a whole batch, with one thread of torch's own each.
Does not: decoding (pictures.py), what is done to a batch, engines.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_alone: list[int] = []
"""What torch's number of threads was, once for every pass that runs with one."""


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch run each operation in the thread that calls it, in every thread of the process.

    Else every thread of ours opens a team of torch's, and teams that wait for one another burn the processor.
    """
    import torch

    with _lock:
        _alone.append(_alone[0] if _alone else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            before = _alone.pop()
            if not _alone:
                torch.set_num_threads(before)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """What a function returns for each item, in order, computed in `threads` threads; with one, in the caller's own.

    At most one item more than threads is under way. Where the items end in an error, what came before it is still
    handed out.
    """
    if threads == 1:
        yield from map(function, items)
        return
    source, failure = iter(items), None
    with one_thread_each(), ThreadPoolExecutor(threads, thread_name_prefix="stream") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            while failure is None:
                try:
                    pending.append(pool.submit(function, next(source)))
                except BaseException as error:  # the end, a broken file or the user's Ctrl-C
                    failure = error
                    break
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
    if not isinstance(failure, StopIteration):
        raise failure
