"""Checkpoints in the database; `Attempts.store_progress` writes them, as the worker's events name them."""

from __future__ import annotations

from sqlalchemy import select

from service.store.engine import Database
from service.store.records import CheckpointRecord
from service.store.rows import Page, newest_first, record_of
from service.store.tables import checkpoints


class Checkpoints:
    """Published checkpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, id: str) -> CheckpointRecord | None:
        """The checkpoint, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(checkpoints).where(checkpoints.c.id == id)).one_or_none()
            return None if row is None else record_of(CheckpointRecord, row)

    def list(self, job_id: str, *, after: str | None = None, limit: int = 10) -> Page[CheckpointRecord]:
        """A page of a job's checkpoints, newest first, and whether there are more.

        Raises:
            UnknownId: the job has no checkpoint `after`.
        """
        with self._database.read() as connection:
            return newest_first(
                connection,
                select(checkpoints).where(checkpoints.c.job_id == job_id),
                kind=CheckpointRecord,
                table=checkpoints,
                order=checkpoints.c.position,
                after=after,
                limit=limit,
                noun="checkpoint",
            )
