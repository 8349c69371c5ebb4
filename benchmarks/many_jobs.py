"""A store full of jobs, as it looks after a year of use: written through the store's own tables.

Four fifths have ended, with an attempt each, events for a tenth of them, and a registered model for each success; the
rest is paused. Specs are real ones, as large as `resolve` makes them.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from service.store.records import (
    AttemptRecord,
    AttemptStatus,
    EndReason,
    EventRecord,
    JobRecord,
    JobStatus,
    ModelRecord,
    ProjectRecord,
    new_id,
)
from service.store.rows import values_of
from service.store.store import Store
from service.store.tables import attempts, events, job_metadata, jobs, models
from trainer.resolve import resolve

STATES = (
    (JobStatus.SUCCEEDED, 0.60),
    (JobStatus.FAILED, 0.15),
    (JobStatus.CANCELLED, 0.05),
    (JobStatus.PAUSED, 0.20),
)
TEAMS = ("birds", "cars", "flowers", "maps", "shoes")
REASONS = {
    JobStatus.SUCCEEDED: EndReason.COMPLETED,
    JobStatus.FAILED: EndReason.BAD_DATA,
    JobStatus.CANCELLED: EndReason.CANCELLED,
}
_EVENTS_OF_A_JOB = 20
_EVERY_WITH_EVENTS = 10
_EVERY_KNOWN = 37  # of no common factor with the number of projects
_BATCH = 2000


@dataclass(frozen=True)
class Filled:
    """What is in the store."""

    projects: tuple[str, ...]
    ids: dict[str, list[str]]
    """Some jobs of each project."""


def fill(store: Store, *, count: int, num_projects: int = 4, seed: int = 0) -> Filled:
    """Write `count` jobs of several projects."""
    draw = random.Random(seed)
    projects = tuple(f"team-{number}" for number in range(num_projects))
    for name in projects:
        store.projects.create(ProjectRecord(id=name, name=name, created_at=time.time()))
    partial = {"model": "ViT-B-32", "data": {"train": "/data/photos"}}
    spec = resolve(recipe="flyp", spec=partial).model_dump(mode="json")
    ids: dict[str, list[str]] = {name: [] for name in projects}
    for first in range(0, count, _BATCH):
        some = [_job(first + i, count, spec, projects, draw) for i in range(min(_BATCH, count - first))]
        _write(store, some, first_position=first + 1)
        for job in some[::_EVERY_KNOWN]:
            ids[job.project_id].append(job.id)
    return Filled(projects, ids)


def queue(store: Store, *, count: int) -> None:
    """Let `count` of the paused jobs wait for devices."""
    paused = jobs.c.status == JobStatus.PAUSED
    some = jobs.select().with_only_columns(jobs.c.position).where(paused).limit(count)
    with store.database.write() as connection:
        chosen = connection.execute(some).scalars().all()
        for first in range(0, len(chosen), 500):
            here = jobs.c.position.in_(chosen[first : first + 500])
            connection.execute(jobs.update().where(here).values(status=JobStatus.QUEUED))


def _job(number: int, count: int, spec: dict[str, Any], projects: tuple[str, ...], draw: random.Random) -> JobRecord:
    status = draw.choices([state for state, _ in STATES], [share for _, share in STATES])[0]
    created_at = time.time() - 300.0 * (count - number)
    id, project = new_id("ftjob"), projects[number % len(projects)]
    notes = {"team": draw.choice(TEAMS), "run": str(number // 40)}
    ended = created_at + 250 if status.is_terminal else None
    return JobRecord(
        id=id,
        spec={**spec, "seed": number, "metadata": notes},
        model="ViT-B-32",
        job_dir=f"/dev/null/{id}",
        created_at=created_at,
        started_at=created_at + 10,
        finished_at=ended,
        status=status,
        metadata=notes,
        seed=number,
        training_file="/data/photos",
        recipe="flyp",
        project_id=project,
        priority=draw.choice((40, 50, 60)),
        queue_order=created_at,
        queued_at=created_at,
        devices_per_node=1,
        num_attempts=1,
        error_code="bad_data" if status is JobStatus.FAILED else None,
        error_message="data.train: no image in /data/photos" if status is JobStatus.FAILED else None,
        fine_tuned_model=f"ft:ViT-B-32:{project}:{secrets.token_hex(8)}" if status is JobStatus.SUCCEEDED else None,
    )


def _write(store: Store, some: list[JobRecord], *, first_position: int) -> None:
    rows = list(enumerate(some, start=first_position))
    with_events = {job.id for position, job in rows if position % _EVERY_WITH_EVENTS == 0}
    written: list[tuple[Table, list[dict[str, Any]]]] = [
        (jobs, [{**values_of(job), "num_events": _EVENTS_OF_A_JOB if job.id in with_events else 0} for job in some]),
        (job_metadata, [note for position, job in rows for note in _notes(job, position)]),
        (attempts, [values_of(_attempt(job)) for job in some]),
        (events, [values_of(event) for job in some if job.id in with_events for event in _events(job)]),
        (models, [values_of(_model(job)) for job in some if job.fine_tuned_model is not None]),
    ]
    with store.database.write() as connection:
        for table, values in written:
            if values:
                connection.execute(table.insert(), values)


def _notes(job: JobRecord, position: int) -> Iterator[dict[str, Any]]:
    for key, value in job.metadata.items():
        yield {"job_id": job.id, "key": key, "value": value, "project_id": job.project_id, "position": position}


def _attempt(job: JobRecord) -> AttemptRecord:
    return AttemptRecord(
        job_id=job.id,
        number=1,
        status=AttemptStatus.ENDED,
        end_reason=REASONS.get(job.status, EndReason.PREEMPTED),
        end_message="Training has ended",
        devices=[0],
        resume=False,
        placement=[{"node": "local", "devices": [0]}],
        created_at=job.created_at + 10,
        ended_at=job.created_at + 250,
        last_step=1000,
    )


def _events(job: JobRecord) -> Iterator[EventRecord]:
    for seq in range(1, _EVENTS_OF_A_JOB + 1):
        told = {"step": 50 * seq, "loss": 1.0 / seq, "images_per_s": 400.0, "data_wait_share": 0.01}
        yield EventRecord(
            id=new_id("ftevent"),
            job_id=job.id,
            seq=seq,
            created_at=job.created_at + 10 * seq,
            level="info",
            message=f"step {50 * seq}: loss {1 / seq:.4f}",
            type="metrics",
            data=told,
        )


def _model(job: JobRecord) -> ModelRecord:
    assert job.fine_tuned_model is not None
    return ModelRecord(
        id=job.fine_tuned_model,
        job_id=job.id,
        path=f"{job.job_dir}/export",
        task="clip",
        created_at=job.created_at + 250,
        owned_by=job.project_id,
        project_id=job.project_id,
        metrics={"validation/top1": 0.7},
    )
