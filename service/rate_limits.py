"""How many requests an API key may send: a token bucket a key, in the memory of each replica."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import TooManyRequests

BURST_S = 10.0
"""A bucket holds what is allowed in this many seconds."""
_MOST_BUCKETS = 10_000


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """Buckets by name, such as a key's id or an address; the one used longest ago is forgotten first."""

    def __init__(self, per_minute: float | None, *, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute`: tokens a minute; None sets no limit. `what` is counted, for the message."""
        self._per_minute = per_minute
        self._what = what
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str) -> None:
        """Take a token out of the bucket `name`.

        Raises:
            TooManyRequests: it is empty; says when it will not be.
        """
        if self._per_minute is None:
            return
        wait_s = self._wait_s(name, self._per_minute / 60.0)
        if wait_s > 0:
            message = f"more than {self._per_minute:g} {self._what} a minute; try again in {wait_s:.1f} s"
            raise TooManyRequests(message, retry_after_s=wait_s, code="rate_limit_exceeded")

    def _wait_s(self, name: str, per_s: float) -> float:
        size, now = max(1.0, per_s * BURST_S), self._clock()
        with self._lock:
            bucket = self._buckets.setdefault(name, _Bucket(size, now))
            self._buckets.move_to_end(name)
            bucket.tokens = min(size, bucket.tokens + (now - bucket.filled_at) * per_s)
            bucket.filled_at = now
            while len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
            if bucket.tokens < 1:
                return (1 - bucket.tokens) / per_s
            bucket.tokens -= 1
            return 0.0


class RateLimits:
    """The limits of one replica."""

    FAILED_KEYS_PER_MINUTE = 60.0

    def __init__(self, *, requests_per_minute: float | None, submissions_per_minute: float | None) -> None:
        self.requests = RateLimit(requests_per_minute, what="requests with one API key")
        self.submissions = RateLimit(submissions_per_minute, what="submissions with one API key")
        self.failed_keys = RateLimit(self.FAILED_KEYS_PER_MINUTE, what="requests without a valid key from one address")
