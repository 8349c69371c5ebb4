"""Requests at a fixed rate, whether or not the answers keep up: an open loop.

Each request has a time at which it is due, and its latency counts from then to the last byte of its answer, so that
time spent in a queue, on either side, is not hidden (Tene, "How NOT to measure latency", 2015). The caller who sends it
has waited for that time himself: a request that went from hand to hand here would measure this process as well.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_CONNECTIONS = 48
_TIMEOUT_S = 60.0
_IDLE_S = 3.0
Connections = queue.LifoQueue[tuple[http.client.HTTPConnection, float]]
"""Open ones, and when each was last used."""


@dataclass(frozen=True)
class Request:
    """One request; `kind` is the row of the table that it counts in."""

    kind: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None


@dataclass(frozen=True)
class Latencies:
    """Of one kind of request, in milliseconds."""

    kind: str
    count: int
    failed: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, kind: str, seconds: list[float], *, failed: int) -> Latencies:
        """From the latency of each request."""
        ordered = sorted(1000 * value for value in seconds)
        at = {share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99)}
        return cls(kind, len(ordered), failed, at[0.5], at[0.95], at[0.99], ordered[-1])


@dataclass
class _Tally:
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, seconds: float, failure: str | None) -> None:
        with self.lock:
            self.seconds.setdefault(kind, []).append(seconds)
            if failure is not None:
                self.failures.setdefault(kind, []).append(failure)


def drive(
    url: str, make: Callable[[random.Random], Request], *, rate: float, seconds: float, seed: int = 1
) -> tuple[list[Latencies], list[str]]:
    """Send requests at `rate` a second, at random times as independent callers do; latencies, and what failed."""
    draw, tally, turn = random.Random(seed), _Tally(), threading.Lock()
    connections: Connections = queue.LifoQueue()
    place = urlsplit(url)
    for _ in range(_CONNECTIONS):
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=_TIMEOUT_S)
        connection.connect()
        connections.put((connection, time.monotonic()))
    began, times = time.perf_counter(), _times(draw, rate=rate, seconds=seconds)

    def call() -> None:
        while True:
            with turn:
                due = next(times, None)
                if due is None:
                    return
                request = make(draw)
            time.sleep(max(0.0, began + due - time.perf_counter()))
            _send(connections, request, began + due, tally)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for caller in [pool.submit(call) for _ in range(_CONNECTIONS)]:
            caller.result()
    everything = [value for values in tally.seconds.values() for value in values]
    failed = [failure for failures in tally.failures.values() for failure in failures]
    rows = [Latencies.of(k, v, failed=len(tally.failures.get(k, ()))) for k, v in sorted(tally.seconds.items())]
    return [*rows, Latencies.of("all", everything, failed=len(failed))], failed


def _times(draw: random.Random, *, rate: float, seconds: float) -> Iterator[float]:
    due = draw.expovariate(rate)
    while due < seconds:
        yield due
        due += draw.expovariate(rate)


def _send(connections: Connections, request: Request, due: float, tally: _Tally) -> None:
    (connection, used_at), failure = connections.get(), None
    if time.monotonic() > used_at + _IDLE_S:
        connection.close()  # the server may have; the next request opens it again
    try:
        body = None if request.body is None else json.dumps(request.body).encode()
        headers = request.headers | ({"Content-Type": "application/json"} if body else {})
        connection.request(request.method, request.path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            failure = f"{request.method} {request.path}: {answer.status} {content[:300]!r}"
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        failure = f"{request.method} {request.path}: {error!r}"
    finally:
        tally.count(request.kind, time.perf_counter() - due, failure)
        connections.put((connection, time.monotonic()))
