"""The demo's processes: the service and everything below it, and their end.

A job's workers outlive the service on purpose and are no children of ours when it has gone, so all processes of
one demo carry a mark in their environment and are found by it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from service.cli.exits import CommandError

_MARK_VARIABLE = "ATTUNE_DEMO_RUN"
_SERVICE_GRACE_S = 8.0
_WORKER_GRACE_S = 4.0
_END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class DemoProcesses:
    """A context that ends every process started in it, also on Ctrl-C, SIGTERM or a closed terminal."""

    def __init__(self, data_dir: Path, *, log: Path) -> None:
        self._data_dir = data_dir
        self.log = log
        self._mark = secrets.token_hex(8)
        self._service: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        for number in _END_SIGNALS:
            signal.signal(number, _interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number in (signal.SIGINT, *_END_SIGNALS):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them behind
        self._end_service()
        _end_all(self._mark)

    def start_service(self, *, port: int) -> str:
        """Start `attune serve` on this machine and return its address once it listens.

        Raises:
            CommandError: it did not start; the text says why.
        """
        argv = [sys.executable, "-P", "-m", "service.cli", "serve", "--json"]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(self._data_dir)]
        # The demo asks for two workers, also on a machine with one core.
        slots = str(max(2, os.cpu_count() or 1))
        environment = {**os.environ, _MARK_VARIABLE: self._mark, "ATTUNE_CPU_SLOTS": slots}
        environment |= {"ATTUNE_DATA_DIR": str(self._data_dir), "ATTUNE_INFERENCE_REQUEST_TIMEOUT_S": "170"}
        with self.log.open("w") as log:
            self._service = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that Ctrl-C reaches the demo alone, which then ends things in order
            )
        assert self._service.stdout is not None
        first_line = self._service.stdout.readline()
        if not first_line:
            raise CommandError(f"the service did not start: {self.log.read_text().strip()[-500:]}")
        return str(json.loads(first_line)["url"])

    def wait_for_service(self) -> None:
        """Wait until the service ends by itself."""
        if self._service is not None:
            self._service.wait()

    def _end_service(self) -> None:
        if self._service is None:
            return
        self._service.terminate()
        try:
            self._service.wait(_SERVICE_GRACE_S)
        except subprocess.TimeoutExpired:
            self._service.kill()
            self._service.wait()


def processes_serving(data_dir: Path) -> list[int]:
    """Ids of living processes of any demo that works in `data_dir`."""
    return [
        process.pid
        for process, environment in _environments()
        if _MARK_VARIABLE in environment and environment.get("ATTUNE_DATA_DIR") == str(data_dir)
    ]


def _end_all(mark: str) -> None:
    """Ask all processes with this mark to end, and kill those that do not; new ones are caught in the next round."""
    deadline = time.monotonic() + _WORKER_GRACE_S
    asked: set[int] = set()
    while marked := [process for process, found in _environments() if found.get(_MARK_VARIABLE) == mark]:
        for process in marked:
            try:
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in asked:
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
            asked.add(process.pid)
        time.sleep(0.1)


def _environments() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Living processes of this user with their environment."""
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
