"""The driver process as the service sees it: asked one thing at a time, lost and started again without harm."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.launchers.base import EngineRefused, EngineUnavailable

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 90.0
_CALL_TIMEOUT_S = 20.0  # the service looks after nothing else meanwhile
_RETRY_S = 3.0
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class Connection:
    """One driver process at a time. Thread-safe.

    While there is none, a thread of its own tries to start one, and every question fails at once.
    """

    def __init__(self, *, address: str, namespace: str, environment: Mapping[str, str]) -> None:
        """`environment`: the driver's, from `driver_environment`."""
        self._command = [sys.executable, "-P", "-m", "service.launchers.ray.driver", address, namespace]
        self._environment = dict(environment)
        self._address = address
        self._asking = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._problem = f"no connection to the Ray cluster at {address} yet"
        self._closing = threading.Event()
        self._connecting: threading.Thread | None = None
        self._starting: subprocess.Popen[str] | None = None
        self.lost_at: float | None = time.monotonic()
        """Monotonic time since when there is no connection; None while there is one."""

    def open(self) -> None:
        """Connect, or leave that to a thread if the cluster does not answer.

        Raises:
            EngineRefused: the cluster answers, but must not be used.
        """
        try:
            self._connect()
        except EngineUnavailable as error:
            self._problem = str(error)
            log.warning("%s; trying on", error)
            self._connect_in_background()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the driver answers.

        Raises:
            EngineUnavailable: there is no driver, or it died or fell silent over this question.
        """
        with self._asking:
            if self._process is None:
                raise EngineUnavailable(self._problem)
            try:
                return self._exchange(self._process, {"method": method, "arguments": arguments}, _CALL_TIMEOUT_S)
            except _Silence as error:
                self._drop(str(error))
                raise EngineUnavailable(self._problem) from None

    def close(self) -> None:
        """End the driver process; what runs in the cluster runs on."""
        self._closing.set()
        if self._starting is not None:
            self._starting.kill()  # nobody waits for a cluster that is not there
        self._let_go()
        if self._connecting is not None:
            self._connecting.join()

    def _let_go(self) -> None:
        with self._asking:
            if self._process is not None:
                _end(self._process)
                self._process = None

    def _connect(self) -> None:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._environment,
            start_new_session=True,  # a Ctrl-C at the terminal is the service's to handle
        )
        self._starting = process
        if self._closing.is_set():
            process.kill()
        try:
            answer = _read(process, _START_TIMEOUT_S)
        except _Silence as error:
            _end(process)
            raise EngineUnavailable(f"cannot connect to the Ray cluster at {self._address}: {error}") from None
        if "result" not in answer:
            _end(process)
            if "refused" in answer:
                raise EngineRefused(answer["refused"])
            raise EngineUnavailable(f"cannot connect to the Ray cluster at {self._address}: {answer['error']}")
        with self._asking:
            self._process, self._starting, self.lost_at = process, None, None
        if self._closing.is_set():
            self._let_go()

    def _exchange(self, process: subprocess.Popen[str], request: Mapping[str, Any], timeout_s: float) -> Any:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError:
            raise _Silence("its driver process has ended") from None
        answer = _read(process, timeout_s)
        if "error" in answer:
            raise EngineUnavailable(f"Ray: {answer['error']}")
        return answer["result"]

    def _drop(self, why: str) -> None:
        if self._process is not None:
            _end(self._process)
        self._process, self.lost_at = None, time.monotonic()
        self._problem = f"the Ray cluster at {self._address} does not answer: {why}"
        log.warning("%s; trying to connect again", self._problem)
        self._connect_in_background()

    def _connect_in_background(self) -> None:
        def connect() -> None:
            while not self._closing.is_set():
                try:
                    self._connect()
                    return
                except (EngineUnavailable, EngineRefused) as error:
                    self._problem = str(error)
                self._closing.wait(_RETRY_S)

        self._connecting = threading.Thread(target=connect, name="ray-connect", daemon=True)
        self._connecting.start()


class _Silence(Exception):
    """The driver process died or gave no answer in time."""


def driver_environment(environment: Mapping[str, str], *, token_file: Path | None) -> dict[str, str]:
    """The driver's environment, with Ray's token mode on.

    Raises:
        EngineRefused: Ray is not installed, or there is no token.
    """
    if importlib.util.find_spec("ray") is None:
        raise EngineRefused("ATTUNE_ENGINE is ray, but Ray is not installed; pip install 'attune-clip[ray]'")
    chosen = {name: value for name, value in environment.items() if not name.startswith("ATTUNE_")}
    if token_file is not None:
        chosen = {name: value for name, value in chosen.items() if name != _TOKEN} | {_TOKEN_PATH: str(token_file)}
    path = chosen.get(_TOKEN_PATH)
    if path is not None and not os.access(path, os.R_OK):
        named = "ATTUNE_RAY_TOKEN_FILE" if token_file is not None else _TOKEN_PATH
        raise EngineRefused(f"{named} is {path}, which cannot be read; it must hold the cluster's token")
    if path is None and not chosen.get(_TOKEN):
        raise EngineRefused(
            "Ray lets anybody who reaches it run code unless it asks for a token: start the cluster with "
            f"{_MODE}=token and name the file with its token in ATTUNE_RAY_TOKEN_FILE (or {_TOKEN_PATH})"
        )
    if chosen.get(_MODE, "token") != "token":
        raise EngineRefused(f"{_MODE} is {chosen[_MODE]!r}; only token is allowed")
    return chosen | {_MODE: "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


def _read(process: subprocess.Popen[str], timeout_s: float) -> dict[str, Any]:
    """The next answer. Each is one line, written at once, so nothing is left over in the reader's buffer."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout_s):
            raise _Silence(f"its driver process said nothing for {timeout_s:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise _Silence("its driver process has ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
