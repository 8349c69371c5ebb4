"""Registered models in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, or_, select
from sqlalchemy.exc import IntegrityError

from service.store.engine import Database
from service.store.records import AlreadyExists, ModelRecord
from service.store.rows import record_of, values_of
from service.store.tables import models

_BY_ID = select(models).where(models.c.id == bindparam("b_id"))


class Models:
    """Models that can be asked. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: ModelRecord) -> ModelRecord:
        """Register a model.

        Raises:
            AlreadyExists: the name is taken.
        """
        try:
            with self._database.write() as connection:
                connection.execute(models.insert().values(**values_of(record)))
        except IntegrityError as error:
            raise AlreadyExists("model", record.id) from error
        return record

    def get(self, id: str) -> ModelRecord | None:
        """The model of this name, or None."""
        with self._database.read() as connection:
            row = connection.execute(_BY_ID, {"b_id": id}).one_or_none()
            return None if row is None else record_of(ModelRecord, row)

    def list(self, *, project: str | None = None) -> list[ModelRecord]:
        """The models of a project, or of all of them, newest first."""
        query = select(models).order_by(models.c.position.desc())
        if project is not None:
            query = query.where(models.c.project_id == project)
        with self._database.read() as connection:
            rows = connection.execute(query)
            return [record_of(ModelRecord, row) for row in rows]

    def names(self, *, project: str, limit: int = 200) -> Sequence[str]:
        """The names of a project's newest models, for whoever may have misspelt one."""
        query = select(models.c.id).where(models.c.project_id == project).order_by(models.c.position.desc())
        with self._database.read() as connection:
            return connection.execute(query.limit(limit)).scalars().all()

    def paths(self, *, project: str, jobs: Sequence[str]) -> Sequence[str]:
        """The export folders of a project's models that one of these jobs has made, or no job at all."""
        made = or_(models.c.job_id.in_(jobs), models.c.job_id.is_(None))
        query = select(models.c.path).where(models.c.project_id == project, made)
        with self._database.read() as connection:
            return connection.execute(query).scalars().all()

    def delete(self, id: str) -> bool:
        """Forget a model; its folder stays. False if there was none."""
        with self._database.write() as connection:
            return connection.execute(delete(models).where(models.c.id == id)).rowcount > 0
