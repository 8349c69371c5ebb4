"""Reading ahead begins early, stays within its bounds, and gives each batch what it needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dali_pipelines.read_ahead import ReadAhead


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def reader(pool, load, **options) -> ReadAhead[int, int, np.ndarray]:
    """Batch n needs the items 2 n and 2 n + 1."""
    options = {"plan": lambda n: n, "items": lambda n: [2 * n, 2 * n + 1], "first": 0, "last": None} | options
    return ReadAhead(load=load, pool=pool, **({"num_batches": 3} | options))


def test_batches_come_in_order_with_their_items_and_end(pool):
    ahead = reader(pool, lambda item: np.full(3, item), first=1, last=4)
    seen = []
    while (head := ahead.head()) is not None:
        seen.append((head[0], {item: value.tolist() for item, value in head[1].items()}))
        ahead.pop()
    assert seen == [(n, {2 * n: [2 * n] * 3, 2 * n + 1: [2 * n + 1] * 3}) for n in (1, 2, 3)]


def test_what_comes_next_is_loaded_while_the_head_is_used(pool):
    begun, go_on = set(), threading.Event()

    def load(item: int) -> np.ndarray:
        begun.add(item)
        assert item < 2 or go_on.wait(10)
        return np.zeros(1)

    ahead = reader(pool, load)
    assert ahead.head()[0] == 0
    assert begun >= {0, 1, 2, 3}  # two more threads are at work
    go_on.set()
    ahead.pop()
    assert ahead.head()[0] == 1


def test_no_more_batches_are_begun_than_asked_for(pool):
    planned = []
    ahead = reader(pool, lambda item: np.zeros(1), plan=lambda n: planned.append(n) or n, num_batches=3)
    ahead.head()
    assert planned == [0, 1, 2]
    ahead.pop()
    assert planned == [0, 1, 2, 3]


def test_large_images_are_held_within_the_bound(pool):
    loaded = []
    ahead = reader(
        pool, lambda item: loaded.append(item) or np.zeros(100, np.uint8), num_batches=50, max_bytes=500, first=0
    )
    for number in range(20):
        assert ahead.head()[0] == number
        pool.submit(lambda: None).result()
        if number > 12:  # once the sizes are known
            assert len(ahead._loading) * 100 <= 500 + 200
        ahead.pop()


def test_planning_again_keeps_what_is_loaded(pool):
    loaded, shift = [], [0]
    ahead = reader(
        pool, lambda item: loaded.append(item) or np.zeros(1), items=lambda n: [n, n + shift[0]], num_batches=2
    )
    ahead.head()
    shift[0] = 1
    ahead.plan_again()
    plan, items = ahead.head()
    assert (plan, set(items)) == (0, {0, 1})
    assert sorted(loaded) == [0, 1, 2]


def test_an_error_of_loading_is_raised_where_the_item_is_wanted(pool):
    def load(item: int) -> np.ndarray:
        if item == 3:
            raise OSError("no")
        return np.zeros(1)

    ahead = reader(pool, load)
    ahead.head()
    ahead.pop()
    with pytest.raises(OSError, match="no"):
        ahead.head()
