"""Jobs in the database."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, select, true, update
from sqlalchemy.exc import IntegrityError

from service.redaction import redact
from service.store.announcements import announce_job
from service.store.audit import append_audit
from service.store.claims import ANY_NEEDS_WORK, NUM_VALIDATING, Claims
from service.store.engine import Database
from service.store.events import append_events, insert_events
from service.store.records import (
    OPEN_ATTEMPT,
    TERMINAL,
    AlreadyExists,
    AuditRecord,
    JobRecord,
    JobStatus,
    LeaseLost,
    NewEvent,
    QuotaExceeded,
    TransitionRefused,
    UnknownId,
)
from service.store.rows import Page, newest_first, record_of, values_of
from service.store.tables import attempts, job_metadata, jobs, projects

_WAITING = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED)
_RARE = 500
_BY_ID = select(jobs).where(jobs.c.id == bindparam("b_id"))
_HELD = select(jobs.c.position).where(jobs.c.id == bindparam("b_id")).with_for_update()
_QUOTAS = select(projects.c.max_disk_bytes, projects.c.disk_bytes, projects.c.max_queued_jobs).where(
    projects.c.id == bindparam("b_project")
)
_OPEN_OF = select(attempts.c.number).where(attempts.c.status.in_(OPEN_ATTEMPT))


class Jobs:
    """Jobs. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._claims = Claims(database.now())

    def create(self, record: JobRecord, *, audit: AuditRecord | None = None) -> JobRecord:
        """Store a new job, and the audit record of its making.

        Raises:
            AlreadyExists: the id is taken.
            QuotaExceeded: its project has as many waiting jobs as it may have.
        """
        try:
            with self._database.write() as connection:
                refusal = _over_quota(connection, record.project_id)
                if refusal is not None:
                    raise refusal if find_job(connection, record.id) is None else AlreadyExists("job", record.id)
                inserted = connection.execute(jobs.insert(), {"num_events": 1, **values_of(record)})
                place = {"job_id": record.id, "project_id": record.project_id}
                position = inserted.inserted_primary_key
                assert position is not None
                notes = [{**place, "key": k, "value": v, "position": position[0]} for k, v in record.metadata.items()]
                if notes:
                    connection.execute(job_metadata.insert(), notes)
                created = NewEvent(message=f"Created fine-tuning job {record.id}", created_at=record.created_at)
                insert_events(connection, record.id, [created], first=1)
                if audit is not None:
                    append_audit(connection, audit)
        except IntegrityError as error:
            raise AlreadyExists("job", record.id) from error
        return record

    def get(self, id: str) -> JobRecord | None:
        """The job, or None."""
        with self._database.read() as connection:
            return find_job(connection, id)

    def list(
        self,
        *,
        project: str | None = None,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[JobRecord]:
        """A page of jobs of a project (None: of all), newest first, that carry all of `metadata`, and whether there
        are more.

        Raises:
            UnknownId: there is no job `after` in that list.
        """
        with self._database.read() as connection:
            query, order = select(jobs), jobs.c.position
            if metadata:
                query, order = _with_notes(connection, query, metadata, project)
            elif project is not None:
                query = query.where(jobs.c.project_id == project)
            return newest_first(
                connection,
                query,
                kind=JobRecord,
                table=jobs,
                order=order,
                after=after,
                limit=limit,
                noun="fine-tuning job",
            )

    def with_status(self, *statuses: JobStatus) -> Sequence[JobRecord]:
        """All jobs in one of `statuses`, in the order in which they were created."""
        query = select(jobs).where(jobs.c.status.in_(statuses)).order_by(jobs.c.created_at, jobs.c.position)
        with self._database.read() as connection:
            return [record_of(JobRecord, row) for row in connection.execute(query)]

    def claim(
        self, *, owner: str, lease_s: float, limit: int, max_validating: int | None = None, take_over: bool = False
    ) -> Sequence[JobRecord]:
        """Jobs that need somebody's attention and are now `owner`'s for `lease_s` seconds: those it holds already,
        and at most `limit` that nobody holds.

        Attention need jobs whose data are being checked, jobs with an open attempt and jobs to be cancelled; queued
        ones wait for the planner and are nobody's.

        Args:
            max_validating: most jobs in all whose data are being checked, the oldest first, and besides one of each
                project that has none among them; None: any number. A caller who checks few at a time need not look at
                thousands that wait for it.
            take_over: also take what another owner holds, for a caller who knows that there is no other.
        """
        given = {"b_owner": owner, "b_ttl": lease_s}
        with self._database.write() as connection:
            connection.execute(self._claims.renew, given)
            room = None if max_validating is None else max_validating - _num_validating(connection, owner)
            for position in self._unheld(connection, owner=owner, limit=limit, room=room, take_over=take_over):
                token = {"b_position": position, "b_token": secrets.token_hex(8)}
                connection.execute(self._claims.give, {**given, **token})
            return [record_of(JobRecord, row) for row in connection.execute(self._claims.mine, {"b_owner": owner})]

    def _unheld(
        self, connection: Connection, *, owner: str, limit: int, room: int | None, take_over: bool
    ) -> Iterator[int]:
        """Positions of jobs to claim; `room`: most of them whose data are to be checked."""
        queries = self._claims.of_anybody if take_over else self._claims.of_nobody
        of_owner = {"b_owner": owner}
        checked = limit if room is None else min(limit, room)
        for query, most in ((queries.urgent, limit), (queries.validating, checked)):
            if most > 0:
                yield from connection.execute(query, {**of_owner, "b_most": most}).scalars().all()
        if room is not None:  # a project that fills all places keeps no other from being looked at
            found = connection.execute(queries.first_of_the_others, of_owner).scalars()
            firsts = [position for position in found if position is not None]
            if firsts:
                among = {**of_owner, "b_among": firsts, "b_most": limit}
                yield from connection.execute(queries.among, among).scalars().all()

    def any_needs_attention(self) -> bool:
        """Whether `claim` would find anything; cheaper, as it writes nothing."""
        with self._database.read() as connection:
            return bool(connection.execute(ANY_NEEDS_WORK).scalar())

    def renew(self, *, owner: str, lease_s: float) -> None:
        """Hold what `owner` has claimed for `lease_s` seconds from now."""
        with self._database.write() as connection:
            connection.execute(self._claims.renew, {"b_owner": owner, "b_ttl": lease_s})

    def release(self, *, owner: str) -> None:
        """Give back all that `owner` holds, so that others need not wait for its leases to run out."""
        held = {"lease_owner": None, "lease_token": None, "lease_expires_at": None}
        with self._database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.lease_owner == owner).values(**held))

    def count_by_status(self) -> dict[JobStatus, int]:
        """How many jobs are in each state; states without jobs count 0."""
        query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
        with self._database.read() as connection:
            return dict.fromkeys(JobStatus, 0) | {row[0]: row[1] for row in connection.execute(query)}

    def waiting_by_project(self) -> dict[str, tuple[int, float | None]]:
        """How many jobs of each project wait for devices, and since when the first of them does."""
        query = select(jobs.c.project_id, func.count(), func.min(jobs.c.queued_at))
        query = query.where(jobs.c.status == JobStatus.QUEUED).group_by(jobs.c.project_id)
        with self._database.read() as connection:
            return {project: (count, since) for project, count, since in connection.execute(query)}

    def transition(
        self,
        id: str,
        to: JobStatus,
        *,
        expected: Iterable[JobStatus],
        note: NewEvent | None = None,
        only_idle: bool = False,
        **changes: Any,
    ) -> JobRecord:
        """Move a job to `to` if it is in one of `expected`, with further `changes` of its fields and an event.

        Callers take `expected` from `service.jobs.lifecycle`. A terminal job never moves, whatever is expected.

        Args:
            only_idle: not while it has an attempt that has not ended.

        Raises:
            UnknownId: there is no such job.
            TransitionRefused: it is in another state, or not idle.
        """
        with self._database.write() as connection:
            hold_job(connection, id)
            if only_idle and connection.execute(_OPEN_OF.where(attempts.c.job_id == id)).first() is not None:
                status = _must_find(connection, id).visible_status
                why = "its last attempt is still saving; try again in a moment" if status is JobStatus.PAUSED else ""
                raise TransitionRefused(id, status, to, why=why)
            move_job(connection, id, to, expected=expected, **changes)
            if note is not None:
                append_events(connection, id, [note])
            return _must_find(connection, id)

    def request_cancel(self, id: str) -> JobRecord:
        """Note that a job is to be cancelled; the job runner does it. Asking twice is no error.

        Raises:
            UnknownId: there is no such job.
            TransitionRefused: it has ended.
        """
        allowed = jobs.c.status.not_in(TERMINAL)
        with self._database.write() as connection:
            changed = connection.execute(update(jobs).where(jobs.c.id == id, allowed).values(cancel_requested=True))
            record = _must_find(connection, id)
            if changed.rowcount == 0:
                raise TransitionRefused(id, record.status, JobStatus.CANCELLED)
            return record

    def update(self, id: str, **changes: Any) -> JobRecord:
        """Change fields other than the status.

        Raises:
            UnknownId: there is no such job.
        """
        if "status" in changes or "metadata" in changes:
            raise ValueError("a job's status changes by `transition` only, and its metadata never")
        with self._database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == id).values(**changes))
            return _must_find(connection, id)


def _num_validating(connection: Connection, owner: str) -> int:
    return connection.execute(NUM_VALIDATING, {"b_owner": owner}).scalar_one()


def _with_notes(
    connection: Connection, query: Select[Any], notes: Mapping[str, str], project: str | None
) -> tuple[Select[Any], Any]:
    """Jobs that carry all of `notes`, and the column that a page of them is ordered by: that of the rarest note, in
    whose index they lie one behind the other."""
    of_project = true() if project is None else job_metadata.c.project_id == project

    def count(note: tuple[str, str]) -> int:
        carry = and_(of_project, job_metadata.c.key == note[0], job_metadata.c.value == note[1])
        some = select(job_metadata.c.position).where(carry).limit(_RARE)
        return connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()

    (key, value), *others = sorted(notes.items(), key=count) if len(notes) > 1 else notes.items()
    carry = and_(of_project, job_metadata.c.key == key, job_metadata.c.value == value)
    query = query.join(job_metadata, job_metadata.c.job_id == jobs.c.id).where(carry)
    for number, (key, value) in enumerate(others):
        note = job_metadata.alias(f"note_{number}")
        query = query.join(note, note.c.job_id == jobs.c.id).where(note.c.key == key, note.c.value == value)
    return query, job_metadata.c.position


def _over_quota(connection: Connection, project: str) -> QuotaExceeded | None:
    """Why a project may have no further job, if so.

    Asked before anything is inserted: a new job's foreign key holds the project's row, and two that both hold it and
    then wait to have it alone would wait for each other.
    """
    found = connection.execute(_QUOTAS, {"b_project": project}).one_or_none()
    most, there, limit = found or (None, None, None)
    if most is not None and (there or 0) > most:
        return QuotaExceeded(project, "bytes of files, checkpoints and models on the disk, or more", most)
    if limit is None:
        return None
    # One at a time, or two would both find the last place.
    connection.execute(select(projects.c.id).where(projects.c.id == project).with_for_update())
    waiting = select(jobs.c.position).where(jobs.c.project_id == project, jobs.c.status.in_(_WAITING)).limit(limit)
    full = len(connection.execute(waiting).all()) >= limit
    return QuotaExceeded(project, "waiting jobs", limit) if full else None


def find_job(connection: Connection, id: str) -> JobRecord | None:
    """The job as this transaction sees it, or None."""
    row = connection.execute(_BY_ID, {"b_id": id}).one_or_none()
    return None if row is None else record_of(JobRecord, row)


def move_job(connection: Connection, id: str, to: JobStatus, *, expected: Iterable[JobStatus], **changes: Any) -> None:
    """`Jobs.transition` inside a transaction that does more. Whoever was told `cancelled` is not told otherwise later:
    a job whose cancellation was requested moves to nothing else."""
    if to.is_terminal:
        changes.setdefault("finished_at", time.time())
        changes.setdefault("estimated_finish", None)
    if changes.get("error_message"):
        changes["error_message"] = redact(changes["error_message"])
    allowed = [status for status in expected if not status.is_terminal]
    movable = and_(jobs.c.id == id, jobs.c.status.in_(allowed))
    if to is not JobStatus.CANCELLED:
        movable = and_(movable, jobs.c.cancel_requested.is_(False))
    changed = connection.execute(update(jobs).where(movable).values(status=to, **changes))
    if changed.rowcount == 0:
        raise TransitionRefused(id, _must_find(connection, id).visible_status, to)
    announce_job(connection, id, to)


def _must_find(connection: Connection, id: str) -> JobRecord:
    record = find_job(connection, id)
    if record is None:
        raise UnknownId("fine-tuning job", id)
    return record


def hold_job(connection: Connection, id: str) -> None:
    """Hold on to a job's row till the transaction ends. Whatever changes a job and its attempts begins with it, as
    two that take the same rows in another order would wait for each other."""
    connection.execute(_HELD, {"b_id": id})


def require_lease(connection: Connection, job_id: str, lease: str | None) -> None:
    """Hold on to a job's row and refuse to go on if its lease is no longer `lease`; None asks nothing.

    Raises:
        LeaseLost: another replica has the job.
    """
    if lease is None:
        hold_job(connection, job_id)
        return
    held = select(jobs.c.lease_token).where(jobs.c.id == job_id).with_for_update()
    if connection.execute(held).scalar_one_or_none() != lease:
        raise LeaseLost(job_id)
