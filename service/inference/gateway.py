"""The way to the models: what the REST handlers ask. Imports no torch.

A request becomes questions of at most one batch each, which join the queue of their model (`lane`); a worker process
(`pool`) answers them. Every request has a deadline; what has passed it never reaches the model.

    gateway = Gateway(settings)               # in a running event loop
    answers = await gateway.zero_shot(model, images, class_names=["rose", "tulip"])
    await gateway.close()                     # ends the workers
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from service.errors import AttuneError, InvalidRequest, Unavailable
from service.inference.failures import BadImage, DeadlineExceeded
from service.inference.heads import checked_head
from service.inference.images import EncodedImage
from service.inference.lane import MAX_BATCH_PIXELS, Lane, Pending
from service.inference.measurements import Measurements
from service.inference.pool import WORKER_COMMAND, Pool
from service.inference.protocol import Answer, Head, Operation, Question
from service.settings import Settings
from service.store.records import ModelRecord


@dataclass(frozen=True)
class Prediction:
    """One class that an image may show."""

    label: str
    index: int
    """Position among the class names."""
    probability: float


@dataclass(frozen=True)
class Features:
    """Unit-norm features, a row an image or text, each as little-endian float32."""

    rows: list[bytes]
    num_tokens: int


class Gateway:
    """Answers questions to registered models. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: CollectorRegistry | None = None,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """`registry` takes the measurements; `command` starts a worker and gets the arguments of `worker.py`."""
        self._settings = settings
        self._measurements = Measurements(registry or CollectorRegistry())
        self.pool = Pool(settings, command=command)
        self._lanes: dict[tuple[str, str], Lane] = {}

    async def zero_shot(
        self,
        model: ModelRecord,
        images: Sequence[EncodedImage],
        *,
        class_names: Sequence[str],
        templates: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[list[Prediction]]:
        """The `top_k` likeliest of `class_names` for each encoded image; `templates` default to the model's own.

        Raises:
            InvalidRequest: the model has no text tower, the class names or templates are faulty, or an image is.
            TooManyRequests: the queue is full.
            Unavailable: the model cannot be loaded, or its worker died twice.
            DeadlineExceeded: no answer within `inference_request_timeout_s`.
        """
        self._require_text_tower(model, "use /v1/classify")
        head = checked_head(class_names, templates=templates or model.templates, settings=self._settings)
        rows = await self._ask_about_images(model, "zero_shot", images, head=head, top_k=top_k)
        return [[Prediction(*entry) for entry in row] for row in rows]

    async def classify(
        self, model: ModelRecord, images: Sequence[EncodedImage], *, top_k: int = 5
    ) -> list[list[Prediction]]:
        """The `top_k` likeliest of the classes that the model was trained on; raises as `zero_shot` does."""
        if model.task == "classifier":
            rows = await self._ask_about_images(model, "classify", images, top_k=top_k)
            return [[Prediction(*entry) for entry in row] for row in rows]
        if not model.class_names:
            message = f"model {model.id!r} was not trained on named classes; name some and use /v1/zero-shot"
            raise InvalidRequest(message, param="model", code="no_classes")
        return await self.zero_shot(model, images, class_names=model.class_names, top_k=top_k)

    async def embed(self, model: ModelRecord, inputs: Sequence[str | EncodedImage]) -> Features:
        """Features of texts (cut off at the model's context length) and encoded images, in the order given.

        Raises: as `zero_shot` does.
        """
        self._require_text_tower(model, "embeddings need an image-text model")
        places = sorted(range(len(inputs)), key=lambda place: isinstance(inputs[place], str))  # images, then texts
        images = [value for value in inputs if isinstance(value, EncodedImage)]
        texts = [value for value in inputs if isinstance(value, str)]
        try:
            answers = await self._ask(model, self._embedding_questions(images, texts), head=None)
        except BadImage as error:
            raise BadImage(places[error.index], error.why, param="input") from None
        rows = dict(zip(places, (row for answer in answers for row in answer.rows), strict=True))
        return Features([rows[place] for place in range(len(inputs))], sum(a.num_tokens for a in answers))

    def _embedding_questions(self, images: Sequence[EncodedImage], texts: Sequence[str]) -> list[Question]:
        size = self._settings.inference_max_batch_size
        starts = range(0, len(texts), size)
        about_texts = [Question("text_features", texts=list(texts[start : start + size])) for start in starts]
        return self._image_questions("image_features", images) + about_texts

    async def close(self) -> None:
        """Refuse what still waits and end the worker processes."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
        await self.pool.close()

    def _require_text_tower(self, model: ModelRecord, advice: str) -> None:
        if model.task != "clip":
            message = f"model {model.id!r} is a classifier without a text tower; {advice}"
            raise InvalidRequest(message, param="model", code="wrong_task")

    async def _ask_about_images(
        self,
        model: ModelRecord,
        operation: Operation,
        images: Sequence[EncodedImage],
        *,
        head: Head | None = None,
        top_k: int = 1,
    ) -> list[Any]:
        key = head.key if head else None
        questions = self._image_questions(operation, images, head=key, top_k=top_k)
        answers = await self._ask(model, questions, head=head)
        return [row for answer in answers for row in answer.rows]

    def _image_questions(
        self, operation: Operation, images: Sequence[EncodedImage], *, head: str | None = None, top_k: int = 1
    ) -> list[Question]:
        """Questions of no more images and pixels than a batch takes."""
        portions: list[list[EncodedImage]] = []
        num_pixels = 0
        for image in images:
            num_pixels += image.num_pixels
            full = portions and len(portions[-1]) == self._settings.inference_max_batch_size
            if not portions or full or num_pixels > MAX_BATCH_PIXELS:
                portions.append([])
                num_pixels = image.num_pixels
            portions[-1].append(image)
        firsts = itertools.accumulate(map(len, portions), initial=0)
        return [
            Question(
                operation,
                [image.data for image in portion],
                first_image=first,
                num_pixels=sum(image.num_pixels for image in portion),
                head=head,
                top_k=top_k,
            )
            for first, portion in zip(firsts, portions, strict=False)
        ]

    async def _ask(self, model: ModelRecord, questions: Sequence[Question], *, head: Head | None) -> list[Answer]:
        loop, timeout_s = asyncio.get_running_loop(), self._settings.inference_request_timeout_s
        deadline = time.monotonic() + timeout_s
        pending = [Pending(question, head, deadline, loop.create_future()) for question in questions]
        lane = self._lane(model)
        lane.add(pending)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.gather(*(waiting.answer for waiting in pending))
        except TimeoutError:
            raise self._too_late(lane) from None
        finally:
            for waiting in pending:
                waiting.answer.cancel()  # what is still queued is dropped there

    def _lane(self, model: ModelRecord) -> Lane:
        lane = self._lanes.get((model.id, model.path))
        if lane is None:
            lane = Lane(model, pool=self.pool, settings=self._settings, measurements=self._measurements)
            self._lanes[model.id, model.path] = lane
        return lane

    def _too_late(self, lane: Lane) -> AttuneError:
        waited = f"no answer from model {lane.model.id!r} within {self._settings.inference_request_timeout_s:g} s"
        worker = self.pool.workers.get(lane.model.id)
        if worker is None or worker.load_s is None:
            self._measurements.refused.labels("model_loading").inc()
            return Unavailable(
                f"{waited}; it is still loading", retry_after_s=lane.seconds_to_empty(), code="model_loading"
            )
        self._measurements.refused.labels("deadline_exceeded").inc()
        return DeadlineExceeded(waited)
