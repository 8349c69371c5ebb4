"""The worker processes: one a loaded model, started on first use, at most a few at once. Imports no torch.

A lease keeps a model loaded while a batch runs. Beyond `inference_max_models` the model that was used longest ago
makes room; a model nobody asks for ends after `inference_idle_unload_s`. A worker that died is noticed by the end of
its stream, and the next lease starts another. The worker, in turn, ends itself when the stream to this process ends,
so that none outlives the control plane, however that dies.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from service.inference.worker_process import Worker
from service.settings import Settings
from service.store.records import ModelRecord

logger = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-m", "service.inference.worker")


class Pool:
    """The loaded models."""

    def __init__(self, settings: Settings, *, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._workers: dict[str, Worker] = {}
        self._changed = asyncio.Condition()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closings: set[asyncio.Task[None]] = set()

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
