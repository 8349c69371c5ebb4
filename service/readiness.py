"""Whether each part of the service can do its work: what `/readyz` looks at, each time anew.

- `store`: the database is there, has its tables, and takes a write.
- `jobs`: the thread that runs jobs lives, and gets round.
- `engine`: it answers, its devices are there, and job folders can be written.
- `inference`: the loaded models' processes answer; without one, such a process starts.

Each look has a time limit. One that is still going on is waited for rather than begun again, so that whoever asks often
cannot start many. What is wrong is logged when it begins; strangers on the network may be told that something is, not
what a database driver says of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from service.inference.gateway import Gateway
from service.jobs.runner import JobRunner
from service.launchers.base import Launcher
from service.redaction import redact
from service.schemas.health import PartState
from service.store.engine import DatabaseTrouble
from service.store.store import Store

logger = logging.getLogger(__name__)

_UNTOLD = "it does not work; the service's log says why"
Look = Callable[[], Awaitable[str]]
"""Says how a part is, or raises whatever is wrong with it."""


class NotReady(Exception):
    """A part does not work; the text says why."""


class Readiness:
    """The looks at all parts of one service; belongs to one event loop."""

    def __init__(self, looks: Mapping[str, Look], *, limit_s: float, tells_why: bool = True) -> None:
        """`tells_why`: whether answers hold the reason why a part does not work."""
        self._looks = looks
        self._limit_s = limit_s
        self._tells_why = tells_why
        self._broken: set[str] = set()
        self._running: dict[str, asyncio.Task[str]] = {}

    async def parts(self) -> dict[str, PartState]:
        """Every part by its name."""
        states = await asyncio.gather(*(self._state(name) for name in self._looks))
        return dict(zip(self._looks, states, strict=True))

    async def _state(self, name: str) -> PartState:
        task = self._running.get(name)
        if task is None or task.done():
            task = self._running[name] = asyncio.ensure_future(self._looks[name]())
        done, _ = await asyncio.wait([task], timeout=self._limit_s)
        if not done:
            return self._broken_state(name, f"no answer within {self._limit_s:g} s")
        if task.cancelled():
            return self._broken_state(name, "the service is shutting down")
        error = task.exception()
        if error is None:
            if name in self._broken:
                self._broken.remove(name)
                logger.warning("%s works again", name)
            return PartState(ok=True, detail=task.result())
        text = str(error) if isinstance(error, NotReady) else f"{type(error).__name__}: {error}"
        return self._broken_state(name, redact(text))

    def _broken_state(self, name: str, why: str) -> PartState:
        if name not in self._broken:
            self._broken.add(name)
            logger.warning("%s does not work: %s", name, why)
        return PartState(ok=False, detail=why if self._tells_why else _UNTOLD)

    async def close(self) -> None:
        """End the looks that are still going on."""
        for task in self._running.values():
            task.cancel()
        for task in self._running.values():
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def readiness_of(
    store: Store,
    runner: JobRunner,
    launcher: Launcher,
    gateway: Gateway,
    *,
    jobs_dir: Path,
    limit_s: float,
    tells_why: bool,
) -> Readiness:
    """The looks at these parts; `limit_s` holds for each."""

    async def look_at_store() -> str:
        return await run_in_threadpool(_describe_store, store, limit_s)

    async def look_at_jobs() -> str:
        return await run_in_threadpool(_describe_runner, runner)

    async def look_at_engine() -> str:
        return await run_in_threadpool(_describe_engine, launcher, jobs_dir)

    looks: dict[str, Look] = {"store": look_at_store, "jobs": look_at_jobs, "engine": look_at_engine}
    every = {**looks, "inference": lambda: _describe_inference(gateway)}
    return Readiness(every, limit_s=limit_s, tells_why=tells_why)


def _describe_store(store: Store, limit_s: float) -> str:
    try:
        store.check(wait_s=limit_s / 2)
    except DatabaseTrouble as error:
        raise NotReady(f"the database cannot be read and written: {getattr(error, 'orig', error)}") from None
    return "reads and writes"


def _describe_runner(runner: JobRunner) -> str:
    if not runner.is_alive:
        raise NotReady("the job runner's thread has ended; restart the service")
    if (silent_s := runner.silent_s()) > runner.STUCK_AFTER_S:
        raise NotReady(f"the job runner has been in one turn for {silent_s:.0f} s")
    return "stands by: another service runs the jobs of this data folder" if runner.stands_by else "runs jobs"


def _describe_engine(launcher: Launcher, jobs_dir: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=jobs_dir) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise NotReady(f"job folders cannot be written in {jobs_dir}: {error.strerror}") from None
    capacity = launcher.capacity()
    if capacity.problem is not None:
        raise NotReady(capacity.problem)
    count = len(capacity.nodes)
    machines = f" on {count} machine{'' if count == 1 else 's'}" if capacity.may_grow else ""
    return f"{capacity.count} {capacity.kind} devices{machines}{capacity.note and f'; {capacity.note}'}"


async def _describe_inference(gateway: Gateway) -> str:
    silent = await gateway.pool.look()
    if silent:
        raise NotReady("; ".join(silent))
    count = len(gateway.pool.workers)
    return f"{count} models loaded and answering" if count else "no model is loaded; one could be"
