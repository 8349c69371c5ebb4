"""Runs DeepSpeed on this machine without the service, passing the terminal through and signals on.

Used by `attune train` and `attune evaluate`. DeepSpeed's launcher reports an exit code that means nothing; what
the workers themselves wrote is what counts.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import psutil

from service.launchers.processes import TAG_VARIABLE, send, tagged

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.2

Ranks = Callable[[], Sequence[psutil.Process]]
"""The worker processes that live; empty while they have not named themselves."""


class ForegroundRun:
    """One DeepSpeed launch in a process group of its own, tagged so that all its processes can be found."""

    def __init__(self, argv: Sequence[str], *, tag: str, environment: Mapping[str, str]) -> None:
        self._argv = argv
        self._tag = tag
        self._environment = {**environment, TAG_VARIABLE: tag}
        self._num_requests = 0
        self._request_passed_on = False

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._num_requests > 0

    def run(self, *, ranks: Ranks, output_to_stderr: bool = False) -> int:
        """Start it, wait until all its processes have ended, and return the first one's exit code.

        `output_to_stderr` leaves stdout to JSON.
        """
        with self._signals_caught():
            child = subprocess.Popen(
                self._argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if output_to_stderr else None,
                process_group=0,
            )
            while child.poll() is None or self._processes():
                self._pass_on(ranks)
                time.sleep(_POLL_S)
            return child.returncode

    def _pass_on(self, ranks: Ranks) -> None:
        """The first request asks the workers to save and stop; the second kills."""
        if self._num_requests >= 2:
            for process in self._processes():
                send(process, signal.SIGKILL)
        elif self._num_requests == 1 and not self._request_passed_on:
            self._request_passed_on = True
            # DeepSpeed's launcher would pass the signal on a second time, and kill a rank that saves for over 30 s.
            for process in ranks() or self._processes():
                send(process, signal.SIGTERM)

    def _processes(self) -> list[psutil.Process]:
        return [process for process, _ in tagged(self._tag)]

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._count_request) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count_request(self, number: int, frame: FrameType | None) -> None:
        self._num_requests += 1
