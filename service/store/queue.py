"""The queue in the database: what planning reads of it, and never more of it than that needs.

The cost of each method here but `depths` does not grow with the number of queued jobs: the head of a line is found by
index, and the specs are left where they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, and_, bindparam, cast, exists, func, literal, or_, select, update

from service.store.engine import Database
from service.store.events import append_events
from service.store.jobs import find_job
from service.store.records import (
    OPEN_ATTEMPT,
    TERMINAL,
    EndReason,
    JobRecord,
    JobStatus,
    NewEvent,
    TransitionRefused,
    UnknownId,
)
from service.store.rows import record_of
from service.store.tables import attempts, jobs

_QUEUED = and_(jobs.c.status == JobStatus.QUEUED, jobs.c.cancel_requested.is_(False))
_GAP = 1024.0
_STEP_BACK = 1e-3
_NEWEST = select(func.max(jobs.c.queued_at)).where(jobs.c.status == JobStatus.QUEUED)
_IDLE = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED)
_OVERDUE = (
    select(jobs.c.id)
    .where(
        jobs.c.status.in_(_IDLE),
        jobs.c.deadline_at < bindparam("b_now"),
        jobs.c.cancel_requested.is_(False),
        ~exists().where(attempts.c.job_id == jobs.c.id, attempts.c.status.in_(OPEN_ATTEMPT)),
    )
    .limit(bindparam("b_most"))
)


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job that waits for devices."""

    id: str
    project_id: str
    priority: int
    queue_order: float
    queued_at: float | None
    not_before: float
    room_made: bool
    nodes: int
    devices_per_node: int | None
    min_devices: int | None
    num_attempts: int
    deadline_at: float | None
    max_runtime_s: float | None
    runtime_s: float


@dataclass(frozen=True, kw_only=True)
class RunningJob:
    """An open attempt, and what planning needs to know of its job."""

    job_id: str
    number: int
    project_id: str
    priority: int
    preemptible: bool
    placement: list[dict[str, Any]]
    created_at: float
    stop_requested_at: float | None
    stop_reason: EndReason | None
    estimated_finish: float | None
    max_runtime_s: float | None
    runtime_s: float
    status: JobStatus
    cancel_requested: bool


@dataclass(frozen=True, kw_only=True)
class QueueDepth:
    """How many jobs of a project wait for devices."""

    project_id: str
    num_jobs: int
    oldest_queued_at: float
    """When the one that waits longest began to."""


class Queue:
    """Queued jobs and those that hold devices. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> float | None:
        """When a job was last queued that still is; None: nothing waits."""
        with self._database.read() as connection:
            newest: float | None = connection.execute(_NEWEST).scalar_one()
            return newest

    def lines(self) -> list[tuple[int, str]]:
        """Priorities and projects that queued jobs have, from the highest priority down."""
        with self._database.read() as connection:
            return [(p, project) for p in _priorities(connection) for project in _projects(connection, p)]

    def top_priority(self) -> int | None:
        """The highest priority that waits."""
        with self._database.read() as connection:
            top: int | None = connection.execute(_next_priority(None)).scalar_one()
            return top

    def head(
        self,
        priority: int,
        project: str,
        *,
        limit: int,
        ready_at: float | None = None,
        most: tuple[int, int] | None = None,
    ) -> Sequence[QueuedJob]:
        """The first jobs of one project and priority.

        Args:
            ready_at: leave those out that do not begin before then.
            most: leave those out that want more machines, or more devices of each, and can do with no less.
        """
        names = [jobs.c[name] for name in QueuedJob.__dataclass_fields__]
        line = and_(_QUEUED, jobs.c.priority == priority, jobs.c.project_id == project)
        if ready_at is not None:
            line = and_(line, jobs.c.not_before <= ready_at)
        if most is not None:
            fits = and_(jobs.c.nodes <= most[0], func.coalesce(jobs.c.devices_per_node, 1) <= most[1])
            line = and_(line, or_(fits, jobs.c.min_devices.is_not(None)))
        query = select(*names).where(line).order_by(jobs.c.queue_order, jobs.c.position).limit(limit)
        with self._database.read() as connection:
            return [record_of(QueuedJob, row) for row in connection.execute(query)]

    def running(self) -> Sequence[RunningJob]:
        """Open attempts with their jobs, the oldest first."""
        columns = [
            (attempts.c if name in _OF_ATTEMPT else jobs.c)[name] for name in RunningJob.__dataclass_fields__
        ]  # fmt: skip
        query = select(*columns).join(jobs, jobs.c.id == attempts.c.job_id)
        query = query.where(attempts.c.status.in_(OPEN_ATTEMPT)).order_by(attempts.c.created_at)
        with self._database.read() as connection:
            return [record_of(RunningJob, row) for row in connection.execute(query)]

    def overdue(self, now: float, *, limit: int = 100) -> Sequence[str]:
        """Ids of jobs whose deadline is over and that no attempt works on."""
        with self._database.read() as connection:
            return connection.execute(_OVERDUE, {"b_now": now, "b_most": limit}).scalars().all()

    def num_ahead(self, job: JobRecord) -> int:
        """Queued jobs of a higher priority, and of the same priority and project that go before it."""
        line = and_(jobs.c.priority == job.priority, jobs.c.project_id == job.project_id)
        ahead = or_(jobs.c.priority > job.priority, and_(line, jobs.c.queue_order < job.queue_order))
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(jobs).where(_QUEUED, ahead)).scalar_one()

    def depths(self) -> Sequence[QueueDepth]:
        """How many jobs of each project wait, and since when; projects with none are left out."""
        query = select(jobs.c.project_id, func.count(), func.min(func.coalesce(jobs.c.queued_at, jobs.c.created_at)))
        with self._database.read() as connection:
            rows = connection.execute(query.where(_QUEUED).group_by(jobs.c.project_id).order_by(jobs.c.project_id))
            return [QueueDepth(project_id=p, num_jobs=n, oldest_queued_at=oldest) for p, n, oldest in rows]

    def change(self, id: str, **changes: Any) -> JobRecord:
        """Change priority and limits of a job that has not ended, with an event that tells of it.

        Raises:
            UnknownId: there is no such job.
            TransitionRefused: it has ended.
        """
        alive = and_(jobs.c.id == id, jobs.c.status.not_in(TERMINAL), jobs.c.cancel_requested.is_(False))
        with self._database.write() as connection:
            changed = connection.execute(update(jobs).where(alive).values(**changes))
            job = find_job(connection, id)
            if job is None:
                raise UnknownId("fine-tuning job", id)
            if changed.rowcount == 0:
                raise TransitionRefused(id, job.visible_status, "changed")
            named = ", ".join(f"{name} {value}" for name, value in changes.items())
            append_events(connection, id, [NewEvent(message=f"Changed by request: {named}", created_at=time.time())])
            return job

    def move(self, id: str, *, before: str | None = None, to_back: bool = False) -> JobRecord:
        """Put a queued job before another one of its project and priority, at the front, or at the back of them.

        Raises:
            UnknownId: there is no such job.
            TransitionRefused: one of them is not queued, or they are not in one line.
        """
        with self._database.write() as connection:
            job = _must_be_queued(connection, id)
            line = and_(_QUEUED, jobs.c.priority == job.priority, jobs.c.project_id == job.project_id, jobs.c.id != id)
            if before is None:
                order = _end_of(connection, line, job, back=to_back)
            else:
                order = _before(connection, line, job, _must_be_queued(connection, before))
            connection.execute(update(jobs).where(jobs.c.id == id).values(queue_order=order))
            return _must_be_queued(connection, id)


_OF_ATTEMPT = frozenset({"job_id", "number", "placement", "created_at", "stop_requested_at", "stop_reason"})


def _priorities(connection: Connection) -> list[int]:
    found: list[int] = []
    while (priority := connection.execute(_next_priority(found[-1] if found else None)).scalar_one()) is not None:
        found.append(priority)
    return found


def _next_priority(below: int | None) -> Any:
    query = select(func.max(jobs.c.priority)).where(jobs.c.status == JobStatus.QUEUED)
    return query if below is None else query.where(jobs.c.priority < below)


def _projects(connection: Connection, priority: int) -> Sequence[str]:
    """A scan that jumps from each project to the next: https://wiki.postgresql.org/wiki/Loose_indexscan."""
    line = select(func.min(jobs.c.project_id)).where(
        jobs.c.status == JobStatus.QUEUED, jobs.c.priority == cast(literal(priority), Integer)
    )
    found = line.cte("found", recursive=True)
    following = line.where(jobs.c.project_id > found.c[0]).scalar_subquery()
    found = found.union_all(select(following).select_from(found).where(found.c[0].is_not(None)))
    return connection.execute(select(found.c[0]).where(found.c[0].is_not(None))).scalars().all()


def _must_be_queued(connection: Connection, id: str) -> JobRecord:
    job = find_job(connection, id)
    if job is None:
        raise UnknownId("fine-tuning job", id)
    if job.status is not JobStatus.QUEUED or job.cancel_requested:
        raise TransitionRefused(id, job.visible_status, "moved in the queue", why="only queued jobs have a place in it")
    return job


def _end_of(connection: Connection, line: Any, job: JobRecord, *, back: bool) -> float:
    found = func.max(jobs.c.queue_order) if back else func.min(jobs.c.queue_order)
    edge = connection.execute(select(found).where(line)).scalar_one()
    if edge is None:
        return job.queue_order
    # A job that comes now is behind whatever was moved to the back: its order is its time.
    return float(edge) + (_STEP_BACK if back else -_GAP)


def _before(connection: Connection, line: Any, job: JobRecord, other: JobRecord) -> float:
    if (other.priority, other.project_id) != (job.priority, job.project_id) or other.id == job.id:
        why = f"{other.id} is of another priority or project, or the job itself"
        raise TransitionRefused(job.id, job.visible_status, f"moved before {other.id}", why=why)
    ahead = and_(line, jobs.c.queue_order < other.queue_order)
    previous = connection.execute(select(func.max(jobs.c.queue_order)).where(ahead)).scalar_one()
    if previous is None:
        return other.queue_order - _GAP
    middle = (float(previous) + other.queue_order) / 2
    if previous < middle < other.queue_order:
        return middle
    connection.execute(update(jobs).where(ahead).values(queue_order=jobs.c.queue_order - _GAP))
    return other.queue_order - _GAP / 2
