"""What ended jobs have left behind, for retention: which jobs, which of their checkpoints, and what must stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, exists, func, select

from service.store.engine import Database
from service.store.events import append_events
from service.store.records import OPEN_ATTEMPT, TERMINAL, CheckpointRecord, NewEvent
from service.store.rows import record_of
from service.store.tables import attempts, checkpoints, jobs, models

_OPEN_ATTEMPT = exists().where(attempts.c.job_id == jobs.c.id, attempts.c.status.in_(OPEN_ATTEMPT))
_ENDED = and_(jobs.c.status.in_(TERMINAL), ~_OPEN_ATTEMPT)
_COLUMNS = (jobs.c.id, jobs.c.project_id, jobs.c.job_dir, jobs.c.finished_at)


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended, with all its attempts."""

    id: str
    project_id: str
    job_dir: str
    finished_at: float


class Leftovers:
    """What ended jobs have left behind. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ended_jobs(self, *, before: float, project: str | None = None) -> Sequence[EndedJob]:
        """Jobs that ended before a time, the oldest first."""
        query = select(*_COLUMNS).where(_ENDED, jobs.c.finished_at < before).order_by(jobs.c.finished_at)
        if project is not None:
            query = query.where(jobs.c.project_id == project)
        with self._database.read() as connection:
            return [EndedJob(*row) for row in connection.execute(query)]

    def with_checkpoints(self, *, before: float, project: str | None = None) -> Sequence[EndedJob]:
        """Those of `ended_jobs` that have more than one checkpoint; a single one is both the latest and the best."""
        many = select(checkpoints.c.job_id).group_by(checkpoints.c.job_id).having(func.count() > 1)
        ended = {job.id: job for job in self.ended_jobs(before=before, project=project)}
        with self._database.read() as connection:
            found = set(connection.execute(many).scalars())
        return [job for id, job in ended.items() if id in found]

    def checkpoints(self, job_id: str) -> tuple[Sequence[CheckpointRecord], str | None]:
        """A job's checkpoints in the order of their steps, and the metric that its spec ranks them by, if it says."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id)
        with self._database.read() as connection:
            spec: dict[str, Any] = connection.execute(select(jobs.c.spec).where(jobs.c.id == job_id)).scalar_one()
            rows = connection.execute(query.order_by(checkpoints.c.step_number, checkpoints.c.position))
            return [record_of(CheckpointRecord, row) for row in rows], (spec.get("checkpoint") or {}).get("metric")

    def forget_checkpoint(self, checkpoint: CheckpointRecord, note: NewEvent) -> None:
        """Take a checkpoint off its job's list, and tell why."""
        with self._database.write() as connection:
            connection.execute(delete(checkpoints).where(checkpoints.c.id == checkpoint.id))
            append_events(connection, checkpoint.job_id, [note])

    def job_dirs(self, project: str) -> Sequence[tuple[str, bool]]:
        """The folders of a project's jobs, and whether each has ended."""
        query = select(jobs.c.job_dir, jobs.c.status.in_(TERMINAL)).where(jobs.c.project_id == project)
        with self._database.read() as connection:
            return [(row[0], bool(row[1])) for row in connection.execute(query)]

    def in_use(self) -> Sequence[str]:
        """Texts that name paths which must stay: folders of registered models, specs of jobs that have not ended."""
        with self._database.read() as connection:
            specs = connection.execute(select(jobs.c.spec).where(~_ENDED)).scalars()
            return [*connection.execute(select(models.c.path)).scalars(), *(json.dumps(spec) for spec in specs)]
