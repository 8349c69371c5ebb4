"""Plans batches and loads the bytes of their images some batches ahead, in threads, within bounds.

Of the images that are loaded here at most `num_batches` batches are held, and no further batch is begun while those
held take `max_bytes` or more, so that the most is the larger of `max_bytes` and one batch, and one batch more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import numpy as np

MAX_BYTES = 256 << 20


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Planned = TypeVar("Planned")
Item = TypeVar("Item", bound=Hashable)
Loaded = TypeVar("Loaded", bound=_Sized)


class ReadAhead(Generic[Planned, Item, Loaded]):
    """Planned batches in order, each with what its items were loaded to."""

    def __init__(
        self,
        *,
        plan: Callable[[int], Planned],
        items: Callable[[Planned], Sequence[Item]],
        load: Callable[[Item], Loaded],
        pool: ThreadPoolExecutor,
        first: int,
        last: int | None,
        num_batches: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """
        Args:
            plan: the batch of a number; asked again after `plan_again`.
            items: what a batch needs.
            load: the bytes of an item; called in the pool's threads. What it raises is raised where they are wanted.
            first: number of the first batch.
            last: number after the last one; None goes on without end.
        """
        self._plan, self._items, self._load, self._pool = plan, items, load, pool
        self._next, self._last = first, last
        self._num_batches, self._max_bytes = num_batches, max_bytes
        self._plans: deque[tuple[Planned, Sequence[Item]]] = deque()
        self._loading: dict[Item, Future[Loaded]] = {}

    def head(self) -> tuple[Planned, dict[Item, Loaded]] | None:
        """The next batch and what its items were loaded to; None after the last."""
        self._look_ahead()
        if not self._plans:
            return None
        plan, items = self._plans[0]
        return plan, {item: self._loading[item].result() for item in items}

    def pop(self) -> None:
        """The head has been taken."""
        self._plans.popleft()
        self._next += 1
        self._forget()
        self._look_ahead()

    def plan_again(self) -> None:
        """Plan what has not been taken anew; what is loaded stays."""
        self._plans.clear()
        self._look_ahead()
        self._forget()

    def close(self) -> None:
        """Begin nothing any more."""
        for future in self._loading.values():
            future.cancel()

    def _look_ahead(self) -> None:
        while len(self._plans) < self._num_batches and self._next + len(self._plans) != self._last:
            if self._plans and self._num_bytes() >= self._max_bytes:
                return
            plan = self._plan(self._next + len(self._plans))
            items = self._items(plan)
            for item in items:
                if item not in self._loading:
                    self._loading[item] = self._pool.submit(self._load, item)
            self._plans.append((plan, items))

    def _num_bytes(self) -> int:
        """Bytes held and, by the average, on their way."""
        done = [future.result().nbytes for future in self._loading.values() if _is_loaded(future)]
        return round(np.mean(done) * len(self._loading)) if done else 0

    def _forget(self) -> None:
        wanted = {item for _, items in self._plans for item in items}
        for item in [item for item in self._loading if item not in wanted]:
            self._loading.pop(item).cancel()


def _is_loaded(future: Future[Loaded]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
