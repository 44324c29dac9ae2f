"""Batches worked on side by side: in order, bounded, with errors that surface and torch's threads as they were."""

from __future__ import annotations

import time

import pytest
import torch

from resources.streams import in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads):
    def late_where_even(item: int) -> int:
        time.sleep(0.02 * (item % 2 == 0))
        return 10 * item

    assert list(in_order(late_where_even, range(7), threads)) == [0, 10, 20, 30, 40, 50, 60]


def test_no_more_than_one_item_more_than_threads_is_under_way():
    taken, handed_out = [], 0
    for _ in in_order(lambda item: item, (taken.append(i) or i for i in range(20)), 2):
        handed_out += 1
        assert len(taken) - handed_out <= 2
    assert handed_out == 20


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_came_before_a_broken_item_is_handed_out(threads, error):
    def items():
        yield from (1, 2, 3)
        raise error("the file is gone")

    found = []
    with pytest.raises(error, match="the file is gone"):
        found.extend(one for one in _noted(in_order(lambda item: -item, items(), threads), found))
    assert found == [-1, -2, -3]


def _noted(results, found):
    for one in results:
        found.append(one)
    return
    yield


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_the_work_surfaces(threads):
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 0, 1], threads))


def test_torch_runs_alone_in_each_thread_and_as_before_afterwards():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first, second = (in_order(lambda _item: torch.get_num_threads(), range(3), 2) for _ in range(2))
        assert [next(first), next(second)] == [1, 1]
        assert [list(first), list(second)] == [[1, 1], [1, 1]]  # the second still runs alone when the first is done
        assert torch.get_num_threads() == 3
        abandoned = in_order(lambda item: item, range(9), 2)
        next(abandoned)
        abandoned.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
