"""The queue of one model, and the task that empties it in batches. Imports no torch.

Questions leave in the order of their arrival, in batches of up to `inference_max_batch_size` images; a batch waits at
most `inference_batch_timeout_ms` for company. What nobody waits for any more is dropped before it reaches the model.
A question whose worker died gets a second try, alone, so that one that kills workers takes no other down with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from service.errors import AttuneError, TooManyRequests, Unavailable
from service.inference.failures import error_of
from service.inference.measurements import Measurements
from service.inference.pool import Pool
from service.inference.protocol import Answer, Head, Question, pack_batch, unpack_answers
from service.inference.worker_process import LoadFailed, Worker, WorkerDied
from service.settings import Settings
from service.store.records import ModelRecord

logger = logging.getLogger(__name__)

_MAX_TRIES = 2
_MAX_BATCH_BYTES = 128 * 1024 * 1024
MAX_BATCH_PIXELS = 128_000_000  # what a decoder has in memory at once; a few small files can hold far more
_HANG_GRACE_S = 30.0  # a worker that is this late with an answer nobody waits for any more is taken for hung
_NEW_SHARE = 0.3  # weight of the latest batch in the moving average of the service rate


@dataclass(eq=False)
class Pending:
    """A question that waits for its answer."""

    question: Question
    head: Head | None
    deadline: float
    """On the monotonic clock."""
    answer: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.monotonic)
    num_tries: int = 0


class Lane:
    """The questions to one model. `add` queues them; a task runs while there are any."""

    def __init__(self, model: ModelRecord, *, pool: Pool, settings: Settings, measurements: Measurements) -> None:
        self.model = model
        self._pool = pool
        self._settings = settings
        self._measurements = measurements
        self._queue: deque[Pending] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seconds_per_row = 0.0
        self._load_s = 0.0

    @property
    def num_waiting(self) -> int:
        """Images and texts in the queue that somebody still waits for."""
        return sum(pending.question.size for pending in self._queue if not pending.answer.done())

    def add(self, questions: Sequence[Pending]) -> None:
        """Queue the questions of one request, all or none.

        Raises:
            TooManyRequests: with them the queue would be longer than `inference_queue_limit`.
        """
        waiting, limit = self.num_waiting, self._settings.inference_queue_limit
        if waiting and waiting + sum(pending.question.size for pending in questions) > limit:
            self._measurements.refused.labels("queue_full").inc()
            message = f"{waiting} images and texts wait for model {self.model.id!r}; at most {limit} may wait"
            raise TooManyRequests(message, retry_after_s=self.seconds_to_empty(), code="queue_full")
        self._queue.extend(questions)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._empty_queue(), name=f"lane {self.model.id}")

    def seconds_to_empty(self) -> float:
        """How long the queue will take at the rate measured so far, and the model to load if it has yet to."""
        worker = self._pool.workers.get(self.model.id)
        is_loaded = worker is not None and worker.load_s is not None and not worker.is_dead
        return self.num_waiting * self._seconds_per_row + (0.0 if is_loaded else self._load_s)

    async def close(self) -> None:
        """Stop, and refuse what still waits."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._refuse(self._take_all(), Unavailable("the service is shutting down", code="shutting_down"))

    async def _empty_queue(self) -> None:
        while self._has_work():
            batch: list[Pending] = []
            try:
                async with self._pool.lease(self.model) as worker:
                    self._note_load(worker)
                    batch = await self._next_batch()
                    if batch:
                        await self._ask(worker, batch)
            except WorkerDied as death:
                logger.error("model %s: %s", self.model.id, death)
                self._measurements.worker_deaths.inc()
                self._try_again(batch or self._take_all(), death)
            except LoadFailed as failure:
                logger.error("%s", failure)
                self._refuse(self._take_all(), Unavailable(str(failure), code="model_not_loadable"))
            except asyncio.CancelledError:
                self._queue.extendleft(reversed(batch))
                raise
            except Exception:
                logger.exception("model %s: a batch failed in the control plane", self.model.id)
                error = AttuneError("the service failed on this request; its log has the details")
                self._refuse(batch or self._take_all(), error)

    def _has_work(self) -> bool:
        self._drop_abandoned()
        return bool(self._queue)

    async def _next_batch(self) -> list[Pending]:
        """The next questions that somebody waits for; empty if there are none left."""
        self._drop_abandoned()
        while self._queue and self.num_waiting < self._settings.inference_max_batch_size:
            patience_s = self._queue[0].arrived + self._settings.inference_batch_timeout_ms / 1000 - time.monotonic()
            if patience_s <= 0:
                break
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._news.wait()
            self._drop_abandoned()
        return self._take_batch()

    def _take_batch(self) -> list[Pending]:
        batch: list[Pending] = []
        num_rows = num_bytes = num_pixels = 0
        while self._queue:
            following = self._queue[0]
            num_rows += following.question.size
            num_bytes += following.question.num_bytes
            num_pixels += following.question.num_pixels
            too_many = num_rows > self._settings.inference_max_batch_size or num_pixels > MAX_BATCH_PIXELS
            too_much = too_many or num_bytes > _MAX_BATCH_BYTES
            if batch and (too_much or following.num_tries or batch[0].num_tries):
                break
            batch.append(self._queue.popleft())
        return batch

    async def _ask(self, worker: Worker, batch: list[Pending]) -> None:
        began = time.monotonic()
        questions = [replace(pending.question, time_left_s=pending.deadline - began) for pending in batch]
        heads = {pending.head.key: pending.head for pending in batch if pending.head is not None}
        for pending in batch:
            self._measurements.queue.observe(began - pending.arrived)
        patience_s = max(question.time_left_s for question in questions) + _HANG_GRACE_S
        frame = await worker.ask(pack_batch(questions, list(heads.values())), timeout_s=patience_s)
        answers, timings = unpack_answers(frame)
        self._measurements.batch_size.observe(sum(question.size for question in questions))
        self._measurements.decode.observe(timings.decode_s)
        self._measurements.model.observe(timings.model_s)
        self._note_rate(sum(question.size for question in questions), time.monotonic() - began)
        for pending, answer in zip(batch, answers, strict=True):
            self._settle(pending, answer)

    def _settle(self, pending: Pending, answer: Answer) -> None:
        if answer.problem is not None:
            self._refuse([pending], error_of(answer.problem))
        elif not pending.answer.done():
            pending.answer.set_result(answer)

    def _try_again(self, batch: Sequence[Pending], death: WorkerDied) -> None:
        for pending in reversed(batch):
            pending.num_tries += 1
            if pending.num_tries < _MAX_TRIES:
                self._queue.appendleft(pending)
            else:
                message = f"model {self.model.id!r} failed twice on this request: {death}"
                self._refuse([pending], Unavailable(message, code="worker_died"))

    def _refuse(self, questions: Iterable[Pending], error: AttuneError) -> None:
        for pending in questions:
            if not pending.answer.done():
                self._measurements.refused.labels(error.code).inc()
                pending.answer.set_exception(error)

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        self._queue = deque(p for p in self._queue if not p.answer.done() and p.deadline > now)

    def _take_all(self) -> list[Pending]:
        taken, self._queue = list(self._queue), deque()
        return taken

    def _note_load(self, worker: Worker) -> None:
        if worker.load_s is not None and worker.load_s != self._load_s:
            self._load_s = worker.load_s
            self._measurements.load.observe(worker.load_s)

    def _note_rate(self, num_rows: int, seconds: float) -> None:
        latest = seconds / num_rows
        share = _NEW_SHARE if self._seconds_per_row else 1.0
        self._seconds_per_row += share * (latest - self._seconds_per_row)
