"""The processes of a drill that are killed and started again: control planes, and who starts them again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.throwaway_postgres import free_port

_ROOT = Path(__file__).parents[2]
_READY_TIMEOUT_S = 120.0


class ControlPlane:
    """One `benchmarks.drill.serve` at a port of its own."""

    def __init__(self, name: str, *, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "benchmarks.drill.serve", "--port", str(self.port), *arguments]
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start the process; `await_ready` says when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        with httpx.Client(timeout=5.0) as http:
            while time.monotonic() < deadline:
                if self.pid is None:
                    raise RuntimeError(f"control plane {self.name} ended; see {self._log}")
                try:
                    http.get(f"{self.url}/healthz")
                    return
                except httpx.TransportError:
                    time.sleep(0.2)
        raise RuntimeError(f"control plane {self.name} did not answer for {_READY_TIMEOUT_S:.0f} s; see {self._log}")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL


class Keeper:
    """Starts control planes again that were killed, each after a pause of its own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []
        """Why a control plane did not come back."""

    def restart(self, plane: ControlPlane, *, after_s: float) -> None:
        """Start `plane` in `after_s` seconds, and see that it answers."""

        def come_back() -> None:
            time.sleep(after_s)
            plane.start()
            began = plane.pid
            try:
                plane.await_ready()
            except RuntimeError as error:
                if plane.pid == began:  # nobody has killed it meanwhile
                    self.failures.append(str(error))

        thread = threading.Thread(target=come_back, name=f"restart-{plane.name}")
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """Until all are there again."""
        for thread in self._threads:
            thread.join()
