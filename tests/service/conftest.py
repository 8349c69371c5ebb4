"""A running service for tests: the real application on a real port, whose jobs run a short script.

Databases are SQLite files, and PostgreSQL too where ATTUNE_TEST_POSTGRES_URL names an empty database, which is emptied
again after each test.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text

from service.app import create_app
from service.client import AttuneClient
from service.launchers.base import Capacity, Run
from service.launchers.local import LocalLauncher, WorkerCommand
from service.server import Server
from service.settings import Settings
from service.store.store import Store
from service.tracing import Tracing

PROCESSES = Path(__file__).parent / "processes"
POSTGRES_URL = os.environ.get("ATTUNE_TEST_POSTGRES_URL")


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES_URL else ["sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'attune.db'}"
        return
    assert POSTGRES_URL is not None
    yield POSTGRES_URL
    store = Store(POSTGRES_URL)
    with store.database.write() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    store.close()


EXTENSIONS = {
    "fine_tuning.job": {"suffix", "recipe", "spec", "started_at", "num_attempts", "attempts", "job_dir"},
    "fine_tuning.job.checkpoint": {"name"},
    "file": {"sha256"},
    "upload.part": {"bytes", "sha256"},
    "model": {"task", "job", "metrics", "class_names", "templates", "path"},
}
"""Fields that Attune's answers have beside OpenAI's, by the type of object."""
ENVELOPE = {"object", "first_id", "last_id"}
"""What OpenAI's lists of some things have and the client's own types of pages leave out."""


def short_worker(run: Run, capacity: Capacity, port: int) -> list[str]:
    """The argument list of a run that trains nothing and tells all that a training run tells."""
    script = str(PROCESSES / "short_worker.py")
    return [sys.executable, script, "--job-dir", str(run.job_dir), "--attempt", str(run.attempt)]


def short_preflight(job_dir: Path) -> list[str]:
    """The argument list of a data check that only looks for the training folder."""
    return [sys.executable, str(PROCESSES / "short_preflight.py"), "--job-dir", str(job_dir)]


@dataclass
class Service:
    """A service that listens."""

    app: FastAPI
    url: str
    data: Path
    """A folder that jobs can name as their training data."""
    stop: Callable[[], None]
    """Ends the service as SIGTERM does: its jobs go on."""


class Running:
    """uvicorn in a thread."""

    def __init__(self, app: FastAPI, *, port: int) -> None:
        config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=10)
        self.app = app
        self._server = Server(app, config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the server did not stop"


@pytest.fixture
def start_service(tmp_path: Path, empty_url: str) -> Iterator[Callable[..., Service]]:
    """Starts services on the same data folder, one after another or at once; all end with the test."""
    started: list[Running] = []
    data = tmp_path / "data"
    data.mkdir()

    def start(
        *, port: int = 0, worker: WorkerCommand = short_worker, tracing: Tracing | None = None, **settings: object
    ) -> Service:
        given = {
            "poll_interval_s": 0.05,
            "stream_poll_s": 0.02,
            "cancel_grace_s": 5.0,
            "cpu_slots": 2,
            "database_url": empty_url,
        }
        launcher = LocalLauncher(cpu_slots=2, worker_command=worker)
        folder = tmp_path / "attune"
        app = create_app(
            Settings(data_dir=folder, **(given | settings)),
            launcher=launcher,
            preflight_command=short_preflight,
            tracing=tracing,
        )
        started.append(server := Running(app, port=port))
        return Service(app, f"http://127.0.0.1:{server.port}", data, server.stop)

    yield start
    for server in reversed(started):
        server.app.state.runner.stop(kill_jobs=True, grace_s=1.0)
        server.stop()


@pytest.fixture
def service(start_service: Callable[..., Service]) -> Service:
    """A running service."""
    return start_service()


@pytest.fixture
def client(service: Service) -> Iterator[AttuneClient]:
    """A client of `service`."""
    with AttuneClient(service.url, timeout_s=20) as client:
        yield client


@pytest.fixture
def strictly() -> Callable[[Any], Any]:
    """Reads an answer of the official client's `with_raw_response`, if the client's own types would have it without
    any conversion and without any field more than `EXTENSIONS`; of what they hold, `paused` alone is forgiven."""

    def read(answer: Any) -> Any:
        parsed = answer.parse()
        content = _without_extensions(json.loads(answer.text))
        if content["object"] == "list":
            content = {name: content[name] for name in content if name not in ENVELOPE - set(type(parsed).model_fields)}
        type(parsed).model_validate_json(json.dumps(content), strict=True, extra="forbid")
        return parsed

    return read


def _without_extensions(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_extensions(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("object", "")
    own = EXTENSIONS.get(kind, set()) if not value.get("deleted") else set()
    assert own <= set(value), f"{kind} lacks {own - set(value)}"
    kept = {name: _without_extensions(item) for name, item in value.items() if name not in own}
    if kind == "fine_tuning.job" and kept["status"] == "paused":
        kept["status"] = "queued"
    if kind == "fine_tuning.job.checkpoint":
        kept["metrics"] = {name: number for name, number in kept["metrics"].items() if "/" not in name}
    return kept


class Relay:
    """Passes connections on to a service, can break them all, and can lose an answer."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.loses_next_answer = False
        self._open: list[socket.socket] = []
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def break_connections(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):  # it may have ended by itself
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listening.close()
        self.break_connections()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            self.num_connections += 1
            other = socket.create_connection(("127.0.0.1", self._to))
            self._open += [one, other]
            for source, sink, answers in ((one, other, False), (other, one, True)):
                threading.Thread(target=self._pass_on, args=(source, sink, answers), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self.loses_next_answer:
                    self.loses_next_answer = False
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@pytest.fixture
def relay(service: Service) -> Iterator[Relay]:
    """A way to `service` that can be broken."""
    relay = Relay(int(service.url.rpartition(":")[2]))
    yield relay
    relay.close()
