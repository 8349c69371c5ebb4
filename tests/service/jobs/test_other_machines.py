"""What runs on another machine, or is not seen from here yet, is not taken for dead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from service.jobs import supervisor
from service.jobs.promotion import Promotions
from service.launchers import processes
from service.launchers.gang import NodeEnd
from service.launchers.processes import tags
from service.store.records import CheckpointRecord, JobStatus
from trainer.job_dir import JobDir, write_json_atomically


@pytest.fixture
def checkpoint(world: Any) -> Any:
    job = world.submit()
    name = "step-1-attempt-1"
    (Path(job.job_dir) / "checkpoints" / name).mkdir(parents=True)
    given: dict[str, Any] = {"metrics": {}, "created_at": 1.0, "fine_tuned_model_checkpoint": "x"}
    return job, CheckpointRecord(id="ftckpt-1", job_id=job.id, step_number=1, name=name, **given)


def test_a_promotion_on_another_machine_is_left_alone(
    world: Any, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store.replicas.beat("a", host="one", pid=1)
    here, there = (Promotions(world.store, command=lambda *given: ["sleep", "600"]) for _ in range(2))
    with monkeypatch.context() as machine:
        machine.setattr(processes.socket, "gethostname", lambda: "one")
        assert here.start(*checkpoint).status == "running"
    with monkeypatch.context() as machine:  # the other sees no process of this one
        machine.setattr(processes, "_living", lambda pid: None)
        assert there.look(*checkpoint).status == "running"
        assert there.start(*checkpoint).status == "running"
        world.store.replicas.forget("a")
        assert there.look(*checkpoint).status == "failed"
    assert len([tag for _, _, tag in tags() if tag.startswith(checkpoint[0].id)]) == 1


def test_a_promotion_that_another_replica_is_just_starting_is_not_started_twice(
    world: Any, checkpoint: Any, tmp_path: Path
) -> None:
    inner = Promotions(world.store, command=lambda *given: ["sleep", "600"])
    states = []

    def command(*given: Any) -> list[str]:
        states.append(inner.start(*checkpoint))
        return ["sleep", "600"]

    Promotions(world.store, command=command).start(*checkpoint)
    assert [state.status for state in states] == ["running"]
    assert len([tag for _, _, tag in tags() if tag.startswith(checkpoint[0].id)]) == 1


def test_an_exit_that_is_not_seen_yet_is_waited_for(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.submit(devices=1)
    runner = world.new_runner()
    hidden: list[bool] = [True]
    read = supervisor._read_exit
    monkeypatch.setattr(supervisor, "_read_exit", lambda paths: None if hidden[0] else read(paths))
    attempt = JobDir(Path(job.job_dir)).attempt(1)
    world.wait(attempt.exit.exists, runner=runner)
    write_json_atomically(attempt.path / "nodes" / "0-end.json", NodeEnd(cause="exit", code=0, time=time.time()))
    world.wait(lambda: not world.processes(job), runner=runner)
    for _ in range(3):
        runner.tick()
    assert world.job(job).status is JobStatus.RUNNING
    hidden[0] = False
    assert world.finish(job, runner).status is JobStatus.SUCCEEDED
    assert len(world.store.attempts.list(job.id)) == 1
