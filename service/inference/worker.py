"""The inference process: loads one exported model and answers batches of questions about images and texts.

    python -m service.inference.worker --socket DESCRIPTOR --folder EXPORT [--device auto] [--max-batch-size 32]
    python -m service.inference.worker --socket DESCRIPTOR --probe

The control plane starts it with one end of a socket pair (`protocol` says what is spoken) and collects its output in
a log file. When the other end closes, in whatever way, the process ends at once, in the middle of a batch if need be.
torch is imported by `predictor` alone, once somebody listens for that end. With `--probe` no model is loaded: the
process only shows that it can be started and answers pings.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from service.inference.protocol import (
    PONG,
    Answer,
    Head,
    Problem,
    Question,
    Timings,
    encode,
    is_ping,
    pack_answers,
    receive_frame,
    unpack_batch,
)

logger = logging.getLogger(__name__)


class Answering(Protocol):
    """What a worker needs of a predictor."""

    def answer(self, questions: Sequence[Question], heads: dict[str, Head]) -> tuple[list[Answer], Timings]:
        """One answer a question; a question's own fault is an answer too, an exception is a failure of the batch."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch could have passed."""

    def is_usable(self) -> bool:
        """Whether the device still works after a failure."""


class Probe:
    """Stands for a model in a process that is only started to see that it can be."""

    def __init__(self) -> None:
        if missing := [name for name in ("torch", "open_clip", "timm") if importlib.util.find_spec(name) is None]:
            raise ModuleNotFoundError(f"{', '.join(missing)} cannot be imported")

    def answer(self, questions: Sequence[Question], heads: dict[str, Head]) -> tuple[list[Answer], Timings]:
        """There is no model to ask."""
        raise NotImplementedError

    def is_out_of_memory(self, error: Exception) -> bool:
        """Never."""
        return False

    def is_usable(self) -> bool:
        """Always."""
        return True


def serve(connection: socket.socket, *, load: Callable[[], Answering]) -> int:
    """Load the model, then answer until the other side goes away, which ends the process. Returns an exit code."""
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection.makefile("rb"), inbox), daemon=True).start()
    try:
        predictor = load()
    except Exception as error:
        logger.exception("the model cannot be loaded")
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        connection.sendall(encode({"failed": first_line}))
        return 1
    connection.sendall(encode({"ready": {"pid": os.getpid()}}))
    while True:
        frame = inbox.get()
        if is_ping(frame):
            connection.sendall(encode(PONG))
            continue
        questions, heads = unpack_batch(frame)
        answers, timings = answer_batch(predictor, questions, heads)
        connection.sendall(encode(pack_answers(answers, timings)))
        if not predictor.is_usable():
            logger.error("the device does not work any more; the process ends and a new one takes its place")
            return 1


def answer_batch(
    predictor: Answering, questions: Sequence[Question], heads: dict[str, Head]
) -> tuple[list[Answer], Timings]:
    """Answer all questions; if the batch fails, each by itself, so that only those at fault go without."""
    try:
        return predictor.answer(questions, heads)
    except Exception as error:
        logger.exception("a batch of %d questions failed", len(questions))
        if len(questions) == 1:
            return [Answer(problem=_problem_of(predictor, error))], Timings()
    parts = [answer_batch(predictor, [question], heads) for question in questions]
    decode_s, model_s = sum(timings.decode_s for _, timings in parts), sum(timings.model_s for _, timings in parts)
    return [answer for answers, _ in parts for answer in answers], Timings(decode_s, model_s)


def _problem_of(predictor: Answering, error: Exception) -> Problem:
    if predictor.is_out_of_memory(error):
        return Problem("out_of_memory", "the device has not enough free memory for this request; try fewer images")
    return Problem("internal", f"the model failed on this request: {type(error).__name__}; the log has the details")


def _receive(stream: BinaryIO, inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Queue what arrives; end the process with the stream, also while the model is loading or busy."""
    while (frame := _next_frame(stream)) is not None:
        inbox.put(frame)
    logger.info("the control plane closed the connection; the worker ends")
    os._exit(0)


def _next_frame(stream: BinaryIO) -> dict[str, Any] | None:
    try:
        return receive_frame(stream)
    except ConnectionError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, load, serve."""
    parser = argparse.ArgumentParser(description="Answers the control plane's questions to one exported model.")
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a connected stream socket")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--folder", type=Path, help="an export, in open_clip's or timm's layout")
    what.add_argument("--probe", action="store_true", help="load nothing; only show that a worker can be started")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--max-batch-size", type=int, default=32, help="most images in one batch")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def load() -> Answering:
        if options.probe:
            return Probe()
        from service.inference.predictor import Predictor

        return Predictor(options.folder, device=options.device, max_batch_size=options.max_batch_size)

    return serve(socket.socket(fileno=options.socket), load=load)


if __name__ == "__main__":
    sys.exit(main())
