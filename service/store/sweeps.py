"""Sweeps and their trials in the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import and_, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from service.store.announcements import announce
from service.store.engine import Database
from service.store.records import SweepRecord, SweepTrialRecord, UnknownId
from service.store.rows import Page, newest_first, record_of, values_of
from service.store.tables import sweep_trials as trials
from service.store.tables import sweeps

OPEN_TRIAL = ("waiting", "running")
_ACTIVE = or_(
    sweeps.c.status == "running", exists().where(trials.c.sweep_id == sweeps.c.id, trials.c.status.in_(OPEN_TRIAL))
)


class Sweeps:
    """Sweeps of all projects. Each method is one transaction; a sweep that has ended stays as it ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, record: SweepRecord) -> SweepRecord:
        """Store a new sweep."""
        with self._database.write() as connection:
            connection.execute(sweeps.insert().values(**values_of(record)))
        return record

    def get(self, id: str) -> SweepRecord | None:
        """The sweep, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(sweeps).where(sweeps.c.id == id)).one_or_none()
            return None if row is None else record_of(SweepRecord, row)

    def list(self, *, project: str, after: str | None = None, limit: int = 20) -> Page[SweepRecord]:
        """A page of a project's sweeps, newest first, and whether there are more.

        Raises:
            UnknownId: there is no sweep `after` in that list.
        """
        with self._database.read() as connection:
            return newest_first(
                connection,
                select(sweeps).where(sweeps.c.project_id == project),
                kind=SweepRecord,
                table=sweeps,
                order=sweeps.c.position,
                after=after,
                limit=limit,
                noun="sweep",
            )

    def any_active(self) -> bool:
        """Whether `active` would find any; cheaper."""
        with self._database.read() as connection:
            return bool(connection.execute(select(select(sweeps.c.position).where(_ACTIVE).exists())).scalar())

    def active(self) -> Sequence[SweepRecord]:
        """Sweeps that run or have ended before their trials, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(sweeps).where(_ACTIVE).order_by(sweeps.c.position))
            return [record_of(SweepRecord, row) for row in rows]

    def end(
        self, id: str, status: Literal["succeeded", "failed", "cancelled"], *, error_message: str | None = None
    ) -> bool:
        """End a sweep and tell of it. False if it has ended before.

        Raises:
            UnknownId: there is no such sweep.
        """
        running = and_(sweeps.c.id == id, sweeps.c.status == "running")
        given = {"status": status, "finished_at": time.time(), "error_message": error_message}
        with self._database.write() as connection:
            if connection.execute(update(sweeps).where(running).values(**given)).rowcount == 0:
                if connection.execute(select(sweeps.c.id).where(sweeps.c.id == id)).first() is None:
                    raise UnknownId("sweep", id)
                return False
            project = connection.execute(select(sweeps.c.project_id).where(sweeps.c.id == id)).scalar_one()
            announce(connection, project, f"fine_tuning.sweep.{status}", {"id": id})
            return True

    def trials(self, sweep_id: str) -> Sequence[SweepTrialRecord]:
        """The sweep's trials, by number."""
        query = select(trials).where(trials.c.sweep_id == sweep_id).order_by(trials.c.number)
        with self._database.read() as connection:
            return [record_of(SweepTrialRecord, row) for row in connection.execute(query)]

    def count_trials(self, sweep_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """How many trials of each of `sweep_ids` are in each status."""
        counted: dict[str, dict[str, int]] = {id: {} for id in sweep_ids}
        query = select(trials.c.sweep_id, trials.c.status, func.count()).where(trials.c.sweep_id.in_(sweep_ids))
        with self._database.read() as connection:
            for id, status, count in connection.execute(query.group_by(trials.c.sweep_id, trials.c.status)):
                counted[id][status] = count
        return counted

    def add_trial(self, record: SweepTrialRecord) -> bool:
        """Store a new trial. False if there is one of its number."""
        try:
            with self._database.write() as connection:
                connection.execute(trials.insert().values(**values_of(record)))
        except IntegrityError:
            return False
        return True

    def update_trial(self, before: SweepTrialRecord, **changes: Any) -> bool:
        """Change fields of a trial. False, and nothing changed, if its status is no longer that of `before`."""
        same = and_(
            trials.c.sweep_id == before.sweep_id, trials.c.number == before.number, trials.c.status == before.status
        )
        with self._database.write() as connection:
            return connection.execute(update(trials).where(same).values(**changes)).rowcount > 0
