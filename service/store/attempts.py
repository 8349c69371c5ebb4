"""Attempts in the database: tries at running a job, the devices they hold, and what they have told so far."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from service.redaction import redact
from service.store.announcements import announce_checkpoint
from service.store.engine import Database
from service.store.events import append_events
from service.store.jobs import hold_job, move_job, require_lease
from service.store.projects import USAGE_HALF_LIFE_S, charge
from service.store.records import (
    OPEN_ATTEMPT,
    AttemptEnd,
    AttemptProgress,
    AttemptRecord,
    AttemptStatus,
    DevicesTaken,
    EndReason,
    JobStatus,
    ModelRecord,
    NewEvent,
    TransitionRefused,
    UnknownId,
)
from service.store.rows import record_of, values_of
from service.store.tables import attempts, checkpoints, device_leases, jobs, models

_TOLD = (
    "start_step", "total_steps", "last_step", "worker_pids", "workers_seen_at", "last_step_at", "last_sign_at", "stage",
)  # fmt: skip
"""Fields of `AttemptProgress` that go into the attempt's row."""
_LEASED = select(device_leases.c.node, device_leases.c.device)
_OF_JOB = (
    select(attempts).where(attempts.c.job_id == bindparam("b_job")).order_by(attempts.c.created_at, attempts.c.number)
)


class Attempts:
    """Attempts. Each method is one transaction; an attempt that has ended never changes again."""

    def __init__(self, database: Database, *, usage_half_life_s: float = USAGE_HALF_LIFE_S) -> None:
        self._database = database
        self._half_life_s = usage_half_life_s

    def latest(self, job_id: str) -> AttemptRecord | None:
        """The job's last attempt, or None before the first."""
        found = self.list(job_id)
        return found[-1] if found else None

    def list(self, job_id: str) -> Sequence[AttemptRecord]:
        """The job's attempts, oldest first."""
        with self._database.read() as connection:
            return [record_of(AttemptRecord, row) for row in connection.execute(_OF_JOB, {"b_job": job_id})]

    def open(self) -> Sequence[AttemptRecord]:
        """All attempts that have not ended, oldest first."""
        query = select(attempts).where(attempts.c.status.in_(OPEN_ATTEMPT))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(attempts.c.created_at, attempts.c.job_id, attempts.c.number))
            return [record_of(AttemptRecord, row) for row in rows]

    def leased_devices(self) -> set[tuple[str, int]]:
        """Devices that attempts hold, as node and number."""
        with self._database.read() as connection:
            return {(node, device) for node, device in connection.execute(_LEASED)}

    def count_ended(self) -> dict[EndReason, int]:
        """How many attempts ended, by reason."""
        query = select(attempts.c.end_reason, func.count()).where(attempts.c.status == AttemptStatus.ENDED)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(attempts.c.end_reason))}

    def begin(
        self,
        job_id: str,
        *,
        placement: Sequence[Mapping[str, Any]],
        resume: bool,
        expected: Iterable[JobStatus],
        message: str,
        engine: str = "local",
    ) -> AttemptRecord:
        """Give a job its devices and a new attempt, and call it running.

        Args:
            placement: as `AttemptRecord.placement`.

        Raises:
            TransitionRefused: the job is in none of the `expected` states, or somebody else began first.
            DevicesTaken: one of the devices is held by another attempt.
        """
        now = time.time()
        with self._database.write() as connection:
            started_at = func.coalesce(jobs.c.started_at, now)
            hold_job(connection, job_id)
            if connection.execute(select(attempts.c.number).where(_is_open(job_id, None))).first() is not None:
                raise TransitionRefused(job_id, JobStatus.QUEUED, JobStatus.RUNNING, why="it has an open attempt")
            move_job(connection, job_id, JobStatus.RUNNING, expected=expected, started_at=started_at, room_made=False)
            return _insert(
                connection, job_id, placement=placement, resume=resume, now=now, message=message, engine=engine
            )

    def update(self, job_id: str, number: int, *, lease: str | None = None, **changes: Any) -> AttemptRecord:
        """Change fields of an attempt that has not ended.

        Args:
            lease: the job's lease token, without which nothing is changed; None asks for none. So below.

        Raises:
            UnknownId: there is no such open attempt.
            LeaseLost: the job has gone to another replica.
        """
        with self._database.write() as connection:
            require_lease(connection, job_id, lease)
            changed = connection.execute(update(attempts).where(_is_open(job_id, number)).values(**changes))
            if changed.rowcount == 0:
                raise UnknownId("open attempt", f"{job_id}/{number}")
            return _must_find(connection, job_id, number)

    def ask_to_stop(
        self, job_id: str, number: int, reason: EndReason, *, message: str, for_job: str | None = None
    ) -> bool:
        """Note that an open attempt must stop, with an event; whoever supervises it does the rest.

        False, and nothing noted, if it has ended or was asked before.

        Args:
            for_job: the waiting job that room is made for; it is noted there, too.
        """
        not_asked = and_(_is_open(job_id, number), attempts.c.stop_reason.is_(None))
        with self._database.write() as connection:
            hold_job(connection, job_id)
            changed = connection.execute(update(attempts).where(not_asked).values(stop_reason=reason))
            if changed.rowcount == 0:
                return False
            if for_job is not None:
                connection.execute(update(jobs).where(jobs.c.id == for_job).values(room_made=True))
            append_events(connection, job_id, [NewEvent(message=message, created_at=time.time(), level="warn")])
            return True

    def store_progress(self, job_id: str, number: int, progress: AttemptProgress) -> bool:
        """Store events with the offset behind them, all or nothing.

        False, and nothing stored, if the stored offset is not `progress.offset_before`: somebody else stored them.
        """
        given = {name: value for name in _TOLD if (value := getattr(progress, name)) is not None}
        with self._database.write() as connection:
            hold_job(connection, job_id)
            changed = connection.execute(
                update(attempts)
                .where(_is_open(job_id, number), attempts.c.events_offset == progress.offset_before)
                .values(events_offset=progress.offset_after, **given)
            )
            if changed.rowcount == 0:
                return False
            append_events(connection, job_id, progress.events)
            _store_checkpoints(connection, job_id, progress)
            if progress.estimated_finish is not None:
                connection.execute(
                    update(jobs).where(jobs.c.id == job_id).values(estimated_finish=progress.estimated_finish)
                )
            return True

    def finish(
        self,
        job_id: str,
        number: int,
        end: AttemptEnd,
        *,
        to: JobStatus | None,
        expected: Iterable[JobStatus] = (),
        model: ModelRecord | None = None,
        lease: str | None = None,
        **job_changes: Any,
    ) -> None:
        """End an attempt, free its devices and, unless `to` is None, move the job; register `model` if there is one.

        Raises:
            UnknownId: there is no such open attempt.
            TransitionRefused: the job's state does not allow `to`.
            LeaseLost: the job has gone to another replica.
        """
        with self._database.write() as connection:
            require_lease(connection, job_id, lease)
            _end(connection, job_id, number, end, half_life_s=self._half_life_s)
            if model is not None:
                connection.execute(models.insert().values(**values_of(model)))
            if to is not None:
                move_job(connection, job_id, to, expected=expected, **job_changes)

    def retry(
        self,
        job_id: str,
        number: int,
        end: AttemptEnd,
        *,
        message: str,
        overrides: Mapping[str, Any] | None = None,
        retries: Mapping[str, int] | None = None,
        lease: str | None = None,
    ) -> AttemptRecord:
        """End an attempt and open the next one on the same devices; the job goes on running.

        Args:
            overrides: added to the job's own, for attempts to come.
            retries: how often each rule was needed in a row; None: as before.

        Raises:
            UnknownId: there is no such open attempt.
            LeaseLost: the job has gone to another replica.
        """
        now = time.time()
        with self._database.write() as connection:
            require_lease(connection, job_id, lease)
            ended = _end(connection, job_id, number, end, half_life_s=self._half_life_s)
            changed = _remembered(connection, job_id, overrides=overrides, retries=retries)
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**changed))
            return _insert(
                connection,
                job_id,
                placement=ended.placement,
                resume=True,
                now=now,
                message=message,
                engine=ended.engine,
            )

    def requeue(
        self,
        job_id: str,
        number: int,
        end: AttemptEnd,
        *,
        expected: Iterable[JobStatus],
        not_before: float = 0.0,
        message: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        retries: Mapping[str, int] | None = None,
        lease: str | None = None,
    ) -> None:
        """End an attempt, free its devices and let the job wait for devices again.

        Args:
            not_before: Unix time before which it does not begin.
            message: of an event that follows the attempt's end.
            overrides: added to the job's own, for attempts to come.
            retries: how often each rule was needed in a row; None: as before.

        Raises:
            UnknownId: there is no such open attempt.
            TransitionRefused: the job's state does not allow it.
            LeaseLost: the job has gone to another replica.
        """
        with self._database.write() as connection:
            require_lease(connection, job_id, lease)
            _end(connection, job_id, number, end, half_life_s=self._half_life_s)
            if message:
                append_events(connection, job_id, [NewEvent(message=message, created_at=time.time())])
            move_job(
                connection,
                job_id,
                JobStatus.QUEUED,
                expected=expected,
                not_before=not_before,
                queued_at=time.time(),
                **_remembered(connection, job_id, overrides=overrides, retries=retries),
            )


def _is_open(job_id: str, number: int | None) -> ColumnElement[bool]:
    """An attempt of that number (None: any) that has not ended."""
    of_job = and_(attempts.c.job_id == job_id, attempts.c.status != AttemptStatus.ENDED)
    return of_job if number is None else and_(of_job, attempts.c.number == number)


def _must_find(connection: Connection, job_id: str, number: int) -> AttemptRecord:
    row = connection.execute(select(attempts).where(attempts.c.job_id == job_id, attempts.c.number == number)).one()
    return record_of(AttemptRecord, row)


def _insert(
    connection: Connection,
    job_id: str,
    *,
    placement: Sequence[Mapping[str, Any]],
    resume: bool,
    now: float,
    message: str,
    engine: str,
) -> AttemptRecord:
    devices = [device for share in placement for device in share["devices"]]
    counted = {"num_attempts": jobs.c.num_attempts + 1, "devices_wanted": len(devices), "estimated_finish": None}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**counted))
    record = AttemptRecord(
        job_id=job_id,
        number=connection.execute(select(jobs.c.num_attempts).where(jobs.c.id == job_id)).scalar_one(),
        status=AttemptStatus.STARTING,
        devices=devices,
        placement=[dict(share) for share in placement],
        engine=engine,
        resume=resume,
        created_at=now,
        overrides=connection.execute(select(jobs.c.overrides).where(jobs.c.id == job_id)).scalar_one(),
    )
    connection.execute(attempts.insert().values(**values_of(record)))
    _lease(connection, record)
    append_events(connection, job_id, [NewEvent(message=message, created_at=now)])
    return record


def _lease(connection: Connection, attempt: AttemptRecord) -> None:
    leases = [
        {"node": share["node"], "device": device, "job_id": attempt.job_id, "number": attempt.number}
        for share in attempt.placement
        for device in share["devices"]
    ]
    if not leases:
        return
    try:
        connection.execute(device_leases.insert(), leases)
    except IntegrityError as error:
        raise DevicesTaken(attempt.placement) from error


def _end(connection: Connection, job_id: str, number: int, end: AttemptEnd, *, half_life_s: float) -> AttemptRecord:
    now = time.time()
    changed = connection.execute(
        update(attempts)
        .where(_is_open(job_id, number))
        .values(
            status=AttemptStatus.ENDED,
            end_reason=end.reason,
            end_message=redact(end.message),
            made_progress=end.made_progress,
            ended_at=now,
        )
    )
    if changed.rowcount == 0:
        raise UnknownId("open attempt", f"{job_id}/{number}")
    held = and_(device_leases.c.job_id == job_id, device_leases.c.number == number)
    connection.execute(delete(device_leases).where(held))
    append_events(connection, job_id, [NewEvent(message=end.message, created_at=now, level=end.level)])
    ended = _must_find(connection, job_id, number)
    _account(connection, ended, now=now, half_life_s=half_life_s)
    return ended


def _account(connection: Connection, ended: AttemptRecord, *, now: float, half_life_s: float) -> None:
    """Count an attempt's time to its job and to its project."""
    ran_s = max(0.0, now - ended.created_at)
    of_job = jobs.c.id == ended.job_id
    connection.execute(update(jobs).where(of_job).values(runtime_s=jobs.c.runtime_s + ran_s))
    project = connection.execute(select(jobs.c.project_id).where(of_job)).scalar_one()
    charge(connection, project, ran_s * len(ended.devices), now=now, half_life_s=half_life_s)


def _remembered(
    connection: Connection, job_id: str, *, overrides: Mapping[str, Any] | None, retries: Mapping[str, int] | None
) -> dict[str, Any]:
    """A job's columns for what its retries have changed."""
    known = connection.execute(select(jobs.c.overrides).where(jobs.c.id == job_id)).scalar_one()
    return {"overrides": {**known, **(overrides or {})}} | ({} if retries is None else {"retries": dict(retries)})


def _store_checkpoints(connection: Connection, job_id: str, progress: AttemptProgress) -> None:
    """In the order of the events: a name that is saved again after its removal counts anew."""
    names = progress.checkpoints_removed + [record.name for record in progress.checkpoints_saved]
    if names:
        of_job = checkpoints.c.job_id == job_id
        connection.execute(delete(checkpoints).where(of_job, checkpoints.c.name.in_(names)))
    kept = [values_of(c) for c in progress.checkpoints_saved if c.name not in progress.checkpoints_removed]
    if kept:
        connection.execute(checkpoints.insert(), kept)
    for saved in progress.checkpoints_saved:
        if saved.name not in progress.checkpoints_removed:
            announce_checkpoint(connection, saved)
