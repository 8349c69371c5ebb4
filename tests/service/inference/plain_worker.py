"""A real worker process without a model: the service's own `serve` around a predictor that does as the texts say.

`sleep 0.5` takes that long, `crash` ends the process by SIGKILL, `crash once FILE` does so if FILE does not exist,
`hang` never answers, `fail` raises, anything else is answered at once. An answer tells the process, the number of
the batch and its size.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

from service.inference.protocol import Answer, Timings
from service.inference.worker import serve


class Obedient:
    def __init__(self) -> None:
        self.num_batches = 0

    def answer(self, questions, heads):
        self.num_batches += 1
        began = time.monotonic()
        for question in questions:
            for text in question.texts + [image.decode() for image in question.images]:
                obey(text)
        num_rows = sum(question.size for question in questions)
        row = f"{os.getpid()} {self.num_batches} {num_rows}".encode()
        answers = [Answer(rows=[row] * question.size, num_tokens=len(heads)) for question in questions]
        return answers, Timings(0.0, time.monotonic() - began)

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def is_usable(self) -> bool:
        return True


def obey(text: str) -> None:
    command, _, argument = text.partition(" ")
    if command == "sleep":
        time.sleep(float(argument))
    elif command == "crash" and not (argument and Path(argument.removeprefix("once ")).exists()):
        if argument:
            Path(argument.removeprefix("once ")).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif command == "hang":
        time.sleep(3600)
    elif command == "fail":
        raise RuntimeError("as asked")
    elif command == "exhaust":
        raise MemoryError


def load(folder: str) -> Obedient:
    if folder.endswith("broken"):
        raise ValueError("this export is broken\nand more")
    if folder.endswith("endless"):
        time.sleep(3600)
    return Obedient()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int)
    parser.add_argument("--folder", default="")
    options, _ = parser.parse_known_args()
    sys.exit(serve(socket.socket(fileno=options.socket), load=lambda: load(options.folder)))
