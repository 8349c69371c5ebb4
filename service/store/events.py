"""Events in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select, update

from service.redaction import redact_values
from service.store.engine import Database
from service.store.records import EventRecord, NewEvent, UnknownId, new_id
from service.store.rows import Page, newest_first, record_of, values_of
from service.store.tables import events, jobs

_COUNT_UP = (
    update(jobs).where(jobs.c.id == bindparam("b_job")).values(num_events=jobs.c.num_events + bindparam("b_count"))
)
_NUM_EVENTS = select(jobs.c.num_events).where(jobs.c.id == bindparam("b_job"))


class Events:
    """What happened to jobs. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, job_id: str, new: Sequence[NewEvent]) -> Sequence[EventRecord]:
        """Store events in this order.

        Raises:
            UnknownId: there is no such job.
        """
        with self._database.write() as connection:
            return append_events(connection, job_id, new)

    def list(self, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[EventRecord]:
        """A page of a job's events, newest first, and whether there are more.

        Raises:
            UnknownId: the job has no event `after`.
        """
        with self._database.read() as connection:
            return newest_first(
                connection,
                select(events).where(events.c.job_id == job_id),
                kind=EventRecord,
                table=events,
                order=events.c.seq,
                after=after,
                limit=limit,
                noun="event",
            )

    def since(self, job_id: str, seq: int = 0, *, limit: int = 1000) -> Sequence[EventRecord]:
        """The job's events after number `seq`, oldest first."""
        query = select(events).where(events.c.job_id == job_id, events.c.seq > seq)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(events.c.seq).limit(limit))
            return [record_of(EventRecord, row) for row in rows]

    def latest_metrics(self, job_id: str) -> EventRecord | None:
        """The job's last event of type `metrics`, or None."""
        query = select(events).where(events.c.job_id == job_id, events.c.type == "metrics")
        with self._database.read() as connection:
            row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).one_or_none()
            return None if row is None else record_of(EventRecord, row)

    def get(self, id: str) -> EventRecord | None:
        """The event, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(events).where(events.c.id == id)).one_or_none()
            return None if row is None else record_of(EventRecord, row)


def append_events(connection: Connection, job_id: str, new: Sequence[NewEvent]) -> Sequence[EventRecord]:
    """`Events.append` inside a transaction that does more."""
    # Counting up on the job's row takes its lock, so that two writers can never draw the same number.
    counted = connection.execute(_COUNT_UP, {"b_job": job_id, "b_count": len(new)})
    if counted.rowcount == 0:
        raise UnknownId("fine-tuning job", job_id)
    last = connection.execute(_NUM_EVENTS, {"b_job": job_id}).scalar_one()
    return insert_events(connection, job_id, new, first=last - len(new) + 1)


def insert_events(connection: Connection, job_id: str, new: Sequence[NewEvent], *, first: int) -> Sequence[EventRecord]:
    """Store events of a job that has counted them already; `first` is the number of the first."""
    records = [
        EventRecord(id=new_id("ftevent"), job_id=job_id, seq=first + i, **redact_values(values_of(event)))
        for i, event in enumerate(new)
    ]
    if records:
        connection.execute(events.insert(), [values_of(record) for record in records])
    return records
