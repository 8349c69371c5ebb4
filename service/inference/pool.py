"""The worker processes: one a loaded model, started on first use, at most a few at once. Imports no torch.

A lease keeps a model loaded while a batch runs. Beyond `inference_max_models` the model that was used longest ago
makes room; a model nobody asks for ends after `inference_idle_unload_s`. A worker that died is noticed by the end of
its stream, and the next lease starts another. The worker, in turn, ends itself when the stream to this process ends,
so that none outlives the control plane, however that dies.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from service.inference.worker_process import Worker, WorkerDied
from service.settings import Settings
from service.store.records import ModelRecord

logger = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "service.inference.worker")
PROBE_AGE_S = 60.0
"""For how long it is believed that a worker process can be started: starting one costs a fraction of a second."""
_PING_S = 2.0


class Pool:
    """The loaded models."""

    def __init__(self, settings: Settings, *, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._workers: dict[str, Worker] = {}
        self._changed = asyncio.Condition()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closings: set[asyncio.Task[None]] = set()
        self._probed_at = -math.inf

    @property
    def workers(self) -> dict[str, Worker]:
        """The workers by model id, loading ones included."""
        return dict(self._workers)

    @asynccontextmanager
    async def lease(self, model: ModelRecord) -> AsyncIterator[Worker]:
        """A worker that has `model` loaded and keeps it for the length of the block.

        Raises:
            WorkerDied: it ended while loading; a further lease starts another.
            LoadFailed: the model cannot be loaded.
        """
        worker = await self._obtain(model)
        try:
            await asyncio.shield(worker.ready)
            yield worker
        finally:
            await self._give_back(worker)

    async def look(self) -> list[str]:
        """Why models cannot be asked, a sentence for each reason: a loaded one gives no sign of life, or, where none is
        loaded or one has died, no worker process can be started."""
        workers = [worker for worker in self._workers.values() if worker.ready.done()]
        looks = await asyncio.gather(*(self._silence(worker) for worker in workers))
        silent = [why for why in looks if why is not None]
        someone_answers = any(not worker.is_dead for worker in workers)
        if not silent and not someone_answers and time.monotonic() > self._probed_at + PROBE_AGE_S:
            await self._probe()
            self._probed_at = time.monotonic()
        return silent

    async def _silence(self, worker: Worker) -> str | None:
        """Why a loaded model does not answer. One that is dead does, by another process that the next lease starts."""
        if worker.is_dead:
            self._probed_at = -math.inf
            return None
        try:
            answers = await worker.answers_ping(timeout_s=_PING_S)
        except WorkerDied:
            self._probed_at = -math.inf
            return None
        return None if answers else f"process {worker.pid} of model {worker.model.id!r} gave no sign for {_PING_S:g} s"

    async def _probe(self) -> None:
        """Start a worker process without a model, and end it.

        Raises:
            WorkerDied: it cannot be started.
            LoadFailed: what it needs is not installed.
        """
        nothing = ModelRecord(id="probe", task="clip", path="", created_at=0.0)
        worker = Worker(nothing, self._settings, self._command, probe=True)
        try:
            await asyncio.shield(worker.ready)
            if not await worker.answers_ping(timeout_s=_PING_S):
                raise WorkerDied(f"the worker process gave no sign for {_PING_S:g} s")
        finally:
            await worker.close(grace_s=1.0)

    async def close(self) -> None:
        """End all workers."""
        for timer in self._timers.values():
            timer.cancel()
        workers, self._workers = list(self._workers.values()), {}
        await asyncio.gather(*(worker.close() for worker in workers), *self._closings)

    async def _obtain(self, model: ModelRecord) -> Worker:
        async with self._changed:
            while True:
                worker = self._workers.get(model.id)
                if worker is not None and (worker.is_dead or worker.model.path != model.path):
                    del self._workers[model.id]
                    await worker.close()
                    worker = None
                if worker is None and len(self._workers) >= self._settings.inference_max_models:
                    await self._make_room()
                    continue
                if worker is None:
                    worker = self._workers[model.id] = Worker(model, self._settings, self._command)
                worker.num_leases += 1
                return worker

    async def _make_room(self) -> None:
        """End the idle worker that was used longest ago, or wait for something to change."""
        idle = [worker for worker in self._workers.values() if worker.num_leases == 0]
        if not idle:
            await self._changed.wait()
            return
        victim = min(idle, key=lambda worker: worker.last_used)
        logger.info("model %s makes room", victim.model.id)
        del self._workers[victim.model.id]
        await victim.close()

    async def _give_back(self, worker: Worker) -> None:
        async with self._changed:
            worker.num_leases -= 1
            worker.last_used = time.monotonic()
            if worker.is_dead and self._workers.get(worker.model.id) is worker:
                del self._workers[worker.model.id]
            self._changed.notify_all()
        self._unload_later(worker)

    def _unload_later(self, worker: Worker) -> None:
        if timer := self._timers.pop(worker.model.id, None):
            timer.cancel()
        loop, delay_s = asyncio.get_running_loop(), self._settings.inference_idle_unload_s
        self._timers[worker.model.id] = loop.call_later(delay_s, self._unload_if_idle, worker)

    def _unload_if_idle(self, worker: Worker) -> None:
        if worker.num_leases or self._workers.get(worker.model.id) is not worker:
            return
        logger.info("model %s was idle and is unloaded", worker.model.id)
        del self._workers[worker.model.id]
        closing = asyncio.get_running_loop().create_task(worker.close())
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
