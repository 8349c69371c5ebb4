"""Projects in the database: whose jobs, models and data belong together, and how much they may use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from service.store.engine import Database
from service.store.records import AlreadyExists, ProjectRecord, UnknownId
from service.store.rows import record_of, values_of
from service.store.tables import projects


class Projects:
    """Projects. Each method is one transaction. The project `default` is always there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, record: ProjectRecord) -> ProjectRecord:
        """Store a new project.

        Raises:
            AlreadyExists: the id or the name is taken.
        """
        try:
            with self._database.write() as connection:
                connection.execute(projects.insert().values(**values_of(record)))
        except IntegrityError as error:
            raise AlreadyExists("project", record.id) from error
        return record

    def get(self, id: str) -> ProjectRecord | None:
        """The project, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(projects).where(projects.c.id == id)).one_or_none()
            return None if row is None else record_of(ProjectRecord, row)

    def list(self) -> list[ProjectRecord]:
        """All projects, by name."""
        with self._database.read() as connection:
            return [record_of(ProjectRecord, row) for row in connection.execute(select(projects).order_by("name"))]

    def update(self, id: str, **changes: Any) -> ProjectRecord:
        """Change fields.

        Raises:
            UnknownId: there is no such project.
        """
        with self._database.write() as connection:
            if connection.execute(update(projects).where(projects.c.id == id).values(**changes)).rowcount == 0:
                raise UnknownId("project", id)
            return record_of(ProjectRecord, connection.execute(select(projects).where(projects.c.id == id)).one())
