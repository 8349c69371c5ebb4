"""`/readyz` tries each part: databases that are locked or gone, workers that hang or cannot start; all are real."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.inference import pool
from service.inference.gateway import Gateway
from service.inference.worker_process import LoadFailed, WorkerDied
from service.launchers.base import Capacity
from service.launchers.local import LocalLauncher
from service.readiness import Readiness
from service.settings import Settings
from service.store.records import ModelRecord

PLAIN_WORKER = (sys.executable, str(Path(__file__).parent / "inference" / "plain_worker.py"))
MODEL = ModelRecord(id="a-model", task="clip", created_at=0.0, path="anywhere")


class Engine(LocalLauncher):
    """This machine's engine, whose cluster can be taken away."""

    def __init__(self) -> None:
        super().__init__(cpu_slots=2)
        self.answers = threading.Event()
        self.answers.set()
        self.num_looks = 0
        self.problem: str | None = None

    def capacity(self) -> Capacity:
        self.num_looks += 1
        assert self.answers.wait(60)
        return super().capacity() if self.problem is None else Capacity("cpu", (), problem=self.problem)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.answers.set()


@pytest.fixture
def http(tmp_path: Path, engine: Engine) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path, readiness_timeout_s=2.0, poll_interval_s=30.0)
    with TestClient(create_app(settings, launcher=engine), base_url="http://localhost") as client:
        yield client


def failing(http: TestClient) -> dict[str, str]:
    """What does not work, and why."""
    answer = http.get("/readyz").json()
    found = {name: part["detail"] for name, part in answer["parts"].items() if not part["ok"]}
    assert answer["status"] == ("not_ready" if found else "ready")
    assert http.get("/readyz").status_code == (503 if found else 200)
    return found


def test_all_parts_are_tried_and_work(http: TestClient) -> None:
    answer = http.get("/readyz")
    assert answer.status_code == 200, answer.text
    assert {name: part["detail"] for name, part in answer.json()["parts"].items()} == {
        "store": "reads and writes",
        "jobs": "runs jobs",
        "engine": "2 cpu devices",
        "inference": "no model is loaded; one could be",
    }


def test_a_database_that_somebody_else_keeps_locked(http: TestClient, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "attune.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    found = failing(http)
    other.execute("ROLLBACK")
    other.close()
    assert found == {"store": "the database cannot be read and written: database is locked"}
    assert failing(http) == {}


def test_a_database_that_is_gone(http: TestClient, tmp_path: Path) -> None:
    (tmp_path / "attune.db").rename(tmp_path / "elsewhere.db")
    found = failing(http)
    (tmp_path / "elsewhere.db").rename(tmp_path / "attune.db")
    assert list(found) == ["store"]
    assert str(tmp_path / "attune.db") in found["store"]
    assert failing(http) == {}


def test_an_engine_that_cannot_be_reached(http: TestClient, engine: Engine) -> None:
    engine.problem = "no Ray cluster answers at 10.0.0.1:6379"
    assert failing(http) == {"engine": "no Ray cluster answers at 10.0.0.1:6379"}


def test_strangers_on_the_network_are_told_that_a_part_fails_and_the_log_why(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data_dir=tmp_path, poll_interval_s=30.0, metrics_access="operator")
    with TestClient(create_app(settings, launcher=engine), base_url="http://localhost") as http:
        engine.problem = "no Ray cluster answers at 10.0.0.1:6379"
        assert failing(http) == {"engine": "it does not work; the service's log says why"}
        engine.problem = None
        assert failing(http) == {}
    told = [record.getMessage() for record in caplog.records if record.name == "service.readiness"]
    assert told == ["engine does not work: no Ray cluster answers at 10.0.0.1:6379", "engine works again"]


def test_an_engine_that_hangs_is_asked_once_however_often_it_is_looked_at(http: TestClient, engine: Engine) -> None:
    engine.answers.clear()
    before = engine.num_looks
    for _ in range(2):
        assert http.get("/readyz").json()["parts"]["engine"] == {"ok": False, "detail": "no answer within 2 s"}
    assert engine.num_looks == before + 1
    engine.answers.set()
    assert failing(http) == {}


def test_job_folders_that_cannot_be_written(http: TestClient, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "jobs")
    assert failing(http) == {
        "engine": f"job folders cannot be written in {tmp_path / 'jobs'}: No such file or directory"
    }


def test_a_runner_that_has_ended(http: TestClient) -> None:
    http.app.state.runner.stop()  # type: ignore[attr-defined]
    assert failing(http) == {"jobs": "the job runner's thread has ended; restart the service"}


def test_a_runner_that_stands_by_says_so(http: TestClient, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data_dir=tmp_path)), base_url="http://localhost") as other:
        state = other.get("/readyz").json()["parts"]["jobs"]
    assert state == {"ok": True, "detail": "stands by: another service runs the jobs of this data folder"}


def test_a_look_that_fails_tells_no_secret() -> None:
    async def look() -> str:
        raise RuntimeError("cannot open postgresql://attune:s3cr3t-p4ss@db/attune")

    async def scenario() -> str:
        return (await Readiness({"x": look}, limit_s=5).parts())["x"].detail

    assert asyncio.run(scenario()) == "RuntimeError: cannot open postgresql://attune:[hidden]@db/attune"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run `scenario(gateway)` around real worker processes."""

    def run(scenario: Callable[[Gateway], object], command: tuple[str, ...] = PLAIN_WORKER) -> None:
        async def main() -> None:
            gateway = Gateway(Settings(data_dir=tmp_path, inference_device="cpu"), command=command)
            try:
                await asyncio.wait_for(scenario(gateway), 60)  # type: ignore[arg-type]
            finally:
                await gateway.close()

        asyncio.run(main())

    return run


def test_a_worker_that_hangs_is_told_and_answers_again_later(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PING_S", 0.3)

    async def scenario(gateway: Gateway) -> None:
        before = await gateway.embed(MODEL, ["one"])
        assert await gateway.pool.look() == []
        pid = gateway.pool.workers["a-model"].pid
        assert pid is not None
        with stopped(pid):
            assert await gateway.pool.look() == [f"process {pid} of model 'a-model' gave no sign for 0.3 s"]
        after = await gateway.embed(MODEL, ["two"])  # the late sign of life is not taken for this one's answer
        assert after.rows[0].split()[0] == before.rows[0].split()[0] == str(pid).encode()
        assert await gateway.pool.look() == []

    run(scenario)


def test_a_dead_worker_is_no_harm_while_another_can_be_started(run: Callable[..., None]) -> None:
    async def scenario(gateway: Gateway) -> None:
        await gateway.embed(MODEL, ["one"])
        worker = gateway.pool.workers["a-model"]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        while not worker.is_dead:
            await asyncio.sleep(0.01)
        assert await gateway.pool.look() == []
        gateway.pool._command = (sys.executable, "-c", "raise SystemExit(3)")
        gateway.pool._probed_at = float("-inf")
        with pytest.raises(WorkerDied, match=r"ended with code 3"):
            await gateway.pool.look()

    run(scenario)


def test_a_worker_that_lacks_a_library_cannot_be_started(run: Callable[..., None], tmp_path: Path) -> None:
    program = tmp_path / "without_torch.py"
    program.write_text(
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[1]]\n"
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'torch' else find(name)\n"
        "from service.inference.worker import main; sys.exit(main(sys.argv[2:]))\n"
    )
    import msgpack

    command = (sys.executable, str(program), str(Path(msgpack.__file__).parents[1]))

    async def scenario(gateway: Gateway) -> None:
        with pytest.raises(LoadFailed, match="torch cannot be imported"):
            await gateway.pool.look()

    run(scenario, command)


def test_that_one_starts_is_believed_for_a_while(run: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(gateway: Gateway) -> None:
        assert await gateway.pool.look() == []
        log = tmp_path / "inference" / "probe.log"
        assert log.exists()
        log.unlink()
        assert await gateway.pool.look() == []
        assert not log.exists()
        gateway.pool._probed_at -= pool.PROBE_AGE_S
        assert await gateway.pool.look() == []
        assert log.exists()

    run(scenario)
