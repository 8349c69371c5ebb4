"""Frames between the control plane and an inference worker. Imports no torch.

A frame is its length (4 bytes, big-endian) and a msgpack map, over a socket pair:

    control plane                                             worker
                                                          <-  {"ready": {...}}, or {"failed": "why"}
    {"questions": [Question, ...], "heads": {key: Head}}  ->
                                                          <-  {"answers": [Answer, ...], "timings": {...}}

One exchange is under way at a time. Either side takes the end of the stream for the other's death.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, Literal

import msgpack

_LENGTH = struct.Struct(">I")

Operation = Literal["zero_shot", "classify", "image_features", "text_features"]


@dataclass(frozen=True)
class Head:
    """What a zero-shot head is made of."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """The name under which a worker caches the head."""
        return hashlib.sha256(msgpack.packb([self.class_names, self.templates])).hexdigest()


@dataclass(frozen=True)
class Question:
    """Part of a request: at most one forward pass of images or of texts."""

    operation: Operation
    images: list[bytes] = field(default_factory=list)
    """Encoded images."""
    first_image: int = 0
    """Position of the first of them in the request."""
    num_pixels: int = 0
    """Pixels of all of them, before they are resized."""
    texts: list[str] = field(default_factory=list)
    head: str | None = None
    """Key of the zero-shot head."""
    top_k: int = 1
    """Predictions an image."""
    time_left_s: float = 60.0
    """Seconds until nobody waits for the answer."""

    @property
    def size(self) -> int:
        """Rows in a forward pass."""
        return len(self.images) + len(self.texts)

    @property
    def num_bytes(self) -> int:
        """Bytes of the images."""
        return sum(map(len, self.images))


@dataclass(frozen=True)
class Problem:
    """Why a question has no answer."""

    code: Literal["bad_image", "deadline", "out_of_memory", "internal"]
    message: str
    index: int | None = None
    """The image concerned, counted within the request."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question: `rows` or a `problem`."""

    rows: list[Any] = field(default_factory=list)
    """A row an image or text: `[[label, index, probability], ...]`, or little-endian float32 features as bytes."""
    num_tokens: int = 0
    """Text tokens read."""
    problem: Problem | None = None


@dataclass(frozen=True)
class Timings:
    """Where a batch's time went, in seconds."""

    decode_s: float = 0.0
    model_s: float = 0.0


def pack_batch(questions: Sequence[Question], heads: Sequence[Head]) -> dict[str, Any]:
    """The frame for one batch; each head travels once however many questions share it."""
    return {"questions": [asdict(question) for question in questions], "heads": {h.key: asdict(h) for h in heads}}


def unpack_batch(frame: dict[str, Any]) -> tuple[list[Question], dict[str, Head]]:
    """The inverse of `pack_batch`."""
    heads = {key: Head(tuple(h["class_names"]), tuple(h["templates"])) for key, h in frame["heads"].items()}
    return [Question(**question) for question in frame["questions"]], heads


def pack_answers(answers: Sequence[Answer], timings: Timings) -> dict[str, Any]:
    """The frame that answers a batch."""
    return {"answers": [asdict(answer) for answer in answers], "timings": asdict(timings)}


def unpack_answers(frame: dict[str, Any]) -> tuple[list[Answer], Timings]:
    """The inverse of `pack_answers`."""
    answers = []
    for fields in frame["answers"]:
        problem = fields.pop("problem")
        answers.append(Answer(**fields, problem=Problem(**problem) if problem else None))
    return answers, Timings(**frame["timings"])


PING: dict[str, Any] = {"ping": True}
PONG: dict[str, Any] = {"pong": True}


def is_ping(frame: dict[str, Any]) -> bool:
    """Whether a frame asks for a sign of life rather than for answers."""
    return "ping" in frame


def is_pong(frame: dict[str, Any]) -> bool:
    """Whether a frame is that sign of life."""
    return "pong" in frame


def encode(frame: dict[str, Any]) -> bytes:
    """Bytes of a frame, length first."""
    body: bytes = msgpack.packb(frame)
    return _LENGTH.pack(len(body)) + body


async def read_frame(stream: asyncio.StreamReader) -> dict[str, Any]:
    """The next frame.

    Raises:
        EOFError: the other side is gone (asyncio.IncompleteReadError is one).
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    frame: dict[str, Any] = msgpack.unpackb(await stream.readexactly(length))
    return frame


def receive_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """The next frame, read by blocking; None at the end of the stream."""
    prefix = stream.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(prefix)
    body = stream.read(length)
    if len(body) < length:
        return None
    frame: dict[str, Any] = msgpack.unpackb(body)
    return frame
