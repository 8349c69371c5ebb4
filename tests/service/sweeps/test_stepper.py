"""Sweeps between two lines: a service that dies, or a replica that takes over, leaves no job to itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from service.jobs import submission
from service.jobs.places.rules import Places
from service.launchers.base import Capacity
from service.store.records import AlreadyExists, JobRecord, JobStatus, ProjectRecord, SweepRecord
from service.store.store import Store
from service.sweeps.stepper import SWEEPS, SweepStepper
from service.sweeps.submitting import job_id_of

REQUEST = {
    "job": {"model": "ViT-B-32", "training_file": "/p", "recipe": "flyp"},
    "parameters": {"optim.lr": {"values": [1e-5, 1e-4]}},
    "method": "grid",
    "metric": "validation/top1",
    "max_parallel": 2,
}


class Killed(BaseException):
    """Stands for kill -9."""


class Submitter:
    """Stores a job for a trial, without a look at its spec."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder

    def submit(self, sweep: SweepRecord, request: Any, trial: Any) -> JobRecord:
        id = job_id_of(trial)
        there = self._store.jobs.get(id)
        given: dict[str, Any] = {"spec": {}, "model": "m", "created_at": time.time()}
        return there or self._store.jobs.create(JobRecord(id=id, job_dir=str(self._folder / id), **given))


@pytest.fixture
def store(empty_url: str) -> Store:
    store = Store(empty_url)
    store.upgrade()
    fields: dict[str, Any] = {"project_id": "default", "created_by": None, "name": None, "status": "running"}
    store.sweeps.create(SweepRecord(id="sweep-1", request=REQUEST, created_at=time.time(), **fields))
    return store


def test_the_job_of_a_trial_that_was_not_noted_is_cancelled_with_its_sweep(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitter: Any = Submitter(store, tmp_path)

    def killed(*given: Any, **more: Any) -> bool:
        raise Killed

    first = SweepStepper(store, submitter, owner="a")
    with monkeypatch.context() as dying:
        dying.setattr(store.sweeps, "update_trial", killed)
        with pytest.raises(Killed):
            first.turn()
    store.leases.release(SWEEPS, owner="a")
    store.sweeps.end("sweep-1", "cancelled")
    second = SweepStepper(store, submitter, owner="b")
    for _ in range(3):
        second.turn()
    job = store.jobs.get(job_id_of(store.sweeps.trials("sweep-1")[0]))
    assert job is not None
    assert job.visible_status is JobStatus.CANCELLED


def test_the_job_of_a_trial_that_ended_meanwhile_is_cancelled(store: Store, tmp_path: Path) -> None:
    class Slow(Submitter):
        def submit(self, sweep: SweepRecord, request: Any, trial: Any) -> JobRecord:
            self._store.sweeps.update_trial(trial, status="stopped", detail={"note": "by another replica"})
            return super().submit(sweep, request, trial)

    submitter: Any = Slow(store, tmp_path)
    SweepStepper(store, submitter, owner="a").turn()
    job = store.jobs.get(job_id_of(store.sweeps.trials("sweep-1")[0]))
    assert job is not None
    assert job.visible_status is JobStatus.CANCELLED


def test_a_replica_that_lost_the_lease_submits_nothing_more(store: Store, tmp_path: Path) -> None:
    class Long(Submitter):
        def submit(self, sweep: SweepRecord, request: Any, trial: Any) -> JobRecord:
            made = super().submit(sweep, request, trial)
            self._store.leases.release(SWEEPS, owner="a")  # forgets that it was held lately, too
            assert self._store.leases.acquire(SWEEPS, owner="b", ttl_s=60.0)
            return made

    submitter: Any = Long(store, tmp_path)
    SweepStepper(store, submitter, owner="a").turn()
    assert len(store.jobs.list()[0]) == 1


def test_a_trial_that_another_replica_has_submitted_is_there_whatever_the_quota_says(
    store: Store, tmp_path: Path
) -> None:
    store.projects.create(ProjectRecord(id="q", name="q", created_at=0.0, max_queued_jobs=1))
    places = Places(roots=None, urls=None, closed=tmp_path, own=tmp_path)

    def submit() -> JobRecord:
        spec = {"recipe": "flyp", "model": "ViT-B-32", "data": {"train": "/photos"}}
        return submission.submit(
            store,
            jobs_dir=tmp_path / "jobs",
            capacity=Capacity.of_this_machine("cpu", [0]),
            weights_dir=None,
            places=places,
            partial_spec=spec,
            project="q",
            job_id="ftjob-1",
        )

    made = submit()
    with pytest.raises(AlreadyExists):
        submit()
    assert store.jobs.get("ftjob-1") == made
    assert not (tmp_path / "jobs").exists()  # submission writes nothing but the row
