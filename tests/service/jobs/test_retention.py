import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.cli.main import run
from service.jobs.retention import DAY_S, Retention
from service.settings import Settings
from service.store.records import (
    AttemptProgress,
    CheckpointRecord,
    JobRecord,
    JobStatus,
    ModelRecord,
    QuotaExceeded,
    new_id,
)

KIB = 1024


@pytest.fixture
def ended_job(world):
    """Makes jobs with checkpoints of a KiB each, whose metric is given, that ended some days ago."""

    def make(*values, days=10.0, running=False, metric=None):
        id = new_id("ftjob")
        folder = world.data_dir / "jobs" / id
        spec = {"checkpoint": {"metric": metric}}
        job = JobRecord(id=id, spec=spec, model="m", job_dir=str(folder), created_at=0.0, status=JobStatus.QUEUED)
        world.store.jobs.create(job)
        place = [{"node": "local", "devices": [0] if running else []}]
        attempt = world.store.attempts.begin(
            id, placement=place, resume=False, expected=[JobStatus.QUEUED], message="begun"
        )
        saved = []
        for step, value in enumerate(values, start=1):
            name = f"step-{step}-attempt-1"
            path = folder / "checkpoints" / name
            path.mkdir(parents=True)
            (path / "weights").write_bytes(bytes(KIB))
            metrics = {} if value is None else {metric or "validation/top1": value}
            saved.append(
                CheckpointRecord(
                    id=new_id("ftckpt"), job_id=id, step_number=step, name=name, metrics=metrics, created_at=0.0,
                    fine_tuned_model_checkpoint=f"{id}:{name}",
                )
            )  # fmt: skip
        progress = AttemptProgress(offset_before=0, offset_after=1, events=[], checkpoints_saved=saved)
        assert world.store.attempts.store_progress(id, attempt.number, progress)
        if not running:
            from service.store.records import AttemptEnd, EndReason

            world.store.attempts.finish(
                id,
                attempt.number,
                AttemptEnd(reason=EndReason.COMPLETED, message="done"),
                to=JobStatus.SUCCEEDED,
                expected=[JobStatus.RUNNING],
                finished_at=time.time() - days * DAY_S,
            )
        return folder

    return make


def steps_left(folder):
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").iterdir())


def keeper(world, **settings):
    return Retention(world.store, Settings(data_dir=world.data_dir, **settings), owner="replica-1")


def test_old_checkpoints_go_but_for_the_best_and_the_latest(world, ended_job):
    old, young = ended_job(0.1, 0.9, 0.5, 0.6), ended_job(0.1, 0.9, 0.5, days=1)
    keeper(world, retention_checkpoint_days=7).turn()
    assert steps_left(old) == [2, 4]
    assert steps_left(young) == [1, 2, 3]
    rows, _ = world.store.checkpoints.list(old.name)
    assert [row.step_number for row in rows] == [4, 2]
    told = [event.message for event in world.store.events.since(old.name)]
    assert sum("Removed checkpoint step-1-attempt-1 (1024 bytes)" in message for message in told) == 1
    records, _ = world.store.audit.list(action="retention.remove_checkpoint")
    assert [record.actor for record in records] == ["replica-1"] * 2
    assert keeper(world, retention_checkpoint_days=7).plan() == []


def test_the_least_is_the_best_of_a_loss(world, ended_job):
    folder = ended_job(0.9, 0.1, 0.5, metric="validation/cross_entropy")
    keeper(world, retention_checkpoint_days=7).turn()
    assert steps_left(folder) == [2, 3]


def test_what_runs_is_promoted_or_serves_as_a_model_stays(world, ended_job):
    running, promoted, model = (
        ended_job(0.1, 0.9, 0.5, running=True),
        ended_job(0.1, 0.9, 0.5),
        ended_job(0.1, 0.9, 0.5),
    )
    (promoted / "promotions" / "step-1-attempt-1").mkdir(parents=True)
    path = str(model / "checkpoints" / "step-1-attempt-1" / "export")
    world.store.models.add(ModelRecord(id="ft:m", path=path, task="clip", created_at=0.0, job_id=model.name))
    keeper(world, retention_checkpoint_days=0, retention_job_files_days=0).plan()
    keeper(world, retention_checkpoint_days=0).turn()
    assert [steps_left(folder) for folder in (running, promoted, model)] == [[1, 2, 3]] * 3


def test_by_default_everything_stays(world, ended_job):
    ended_job(0.1, 0.9, 0.5, days=10_000)
    assert keeper(world).plan() == []


def test_a_job_whose_files_are_old_keeps_its_model_and_its_history(world, ended_job):
    folder = ended_job(0.9)
    for name in ("attempts", "export", "preflight"):
        (folder / name).mkdir()
    (folder / "spec.json").write_text("{}")
    export = ModelRecord(id="ft:m", path=str(folder / "export"), task="clip", created_at=0.0, job_id=folder.name)
    world.store.models.add(export)
    keeper(world, retention_job_files_days=5).turn()
    assert sorted(path.name for path in folder.iterdir()) == ["export", "spec.json"]
    assert world.store.jobs.get(folder.name).status is JobStatus.SUCCEEDED


def test_over_its_quota_a_project_loses_superseded_checkpoints_oldest_first_and_no_more_than_needed(world, ended_job):
    older, younger = ended_job(0.1, 0.9, 0.5, days=9), ended_job(0.1, 0.2, 0.9, 0.5, days=2)
    world.store.projects.update("default", max_disk_bytes=5 * KIB + 10)
    keeper(world).turn()
    assert steps_left(older) == [2, 3]
    assert steps_left(younger) == [2, 3, 4]
    assert world.store.projects.get("default").disk_bytes == 5 * KIB


def test_a_project_that_stays_over_its_quota_may_submit_nothing_and_is_told_why(world, ended_job):
    job = ended_job(0.1, 0.9, 0.5)
    world.store.projects.update("default", max_disk_bytes=KIB)
    keeper(world).turn()
    assert steps_left(job) == [2, 3]
    with pytest.raises(QuotaExceeded, match="bytes"):
        world.submit()
    world.store.projects.update("default", max_disk_bytes=KIB * 100)
    world.submit()


def test_a_removal_that_was_cut_short_is_finished(world, ended_job):
    folder = ended_job(0.1, 0.9, 0.5)
    path = folder / "checkpoints" / "step-1-attempt-1"
    path.rename(path.with_name(".step-1-attempt-1.removed"))  # as far as a killed service came
    keeper(world, retention_checkpoint_days=1).turn()
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-2-attempt-1", "step-3-attempt-1"]
    assert len(world.store.checkpoints.list(folder.name)[0]) == 2


def test_a_dry_run_lists_and_removes_nothing(world, ended_job, capsys, monkeypatch):
    folder = ended_job(0.1, 0.9, 0.5)
    monkeypatch.setenv("ATTUNE_RETENTION_CHECKPOINT_DAYS", "7")
    command = ["retention", "--data-dir", str(world.data_dir), "--json"]
    assert run([*command, "--dry-run"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert Path(listed["path"]).name == "step-1-attempt-1"
    assert steps_left(folder) == [1, 2, 3]
    assert run(command) == 0
    assert steps_left(folder) == [2, 3]


def test_a_service_that_dies_between_two_removals_goes_on(world, ended_job):
    folder = ended_job(0.1, 0.2, 0.9, 0.5)
    one = keeper(world, retention_checkpoint_days=1)
    first, second = one.plan()
    one.remove(first)
    (again,) = keeper(world, retention_checkpoint_days=1).plan()
    assert again == replace(second, why=again.why)
    keeper(world, retention_checkpoint_days=1).turn()
    assert steps_left(folder) == [3, 4]
