"""A running service for tests: the real application on a real port, whose jobs run a short script."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.client import AttuneClient
from service.launchers.base import Capacity, Run
from service.launchers.local import LocalLauncher, WorkerCommand
from service.server import Server
from service.settings import Settings

PROCESSES = Path(__file__).parent / "processes"


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
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services on the same data folder, one after another or at once; all end with the test."""
    started: list[Running] = []
    data = tmp_path / "data"
    data.mkdir()

    def start(*, port: int = 0, worker: WorkerCommand = short_worker, **settings: object) -> Service:
        given = {"poll_interval_s": 0.05, "stream_poll_s": 0.02, "cancel_grace_s": 5.0, "cpu_slots": 2, **settings}
        launcher = LocalLauncher(cpu_slots=2, worker_command=worker)
        folder = tmp_path / "attune"
        app = create_app(Settings(data_dir=folder, **given), launcher=launcher, preflight_command=short_preflight)
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
