"""Projects in the database: whose jobs, models and data belong together, and how much they may use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from service.store.engine import Database
from service.store.records import AlreadyExists, ProjectRecord, UnknownId
from service.store.rows import record_of, values_of
from service.store.tables import projects

USAGE_HALF_LIFE_S = 7 * 86_400.0
_BY_ID = select(projects).where(projects.c.id == bindparam("b_id"))


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
            row = connection.execute(_BY_ID, {"b_id": id}).one_or_none()
            return None if row is None else record_of(ProjectRecord, row)

    def max_devices(self, id: str) -> int | None:
        """Most devices that a project may hold at once; None: no limit of its own, or no such project."""
        with self._database.read() as connection:
            return connection.execute(select(projects.c.max_devices).where(projects.c.id == id)).scalar_one_or_none()

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


def decayed(device_seconds: float, *, for_s: float, half_life_s: float) -> float:
    """What counts of past use after `for_s` more seconds: half of it every `half_life_s`."""
    return device_seconds * float(2.0 ** (-max(0.0, for_s) / half_life_s))


def charge(connection: Connection, project_id: str, device_seconds: float, *, now: float, half_life_s: float) -> None:
    """Add to a project's recent use, inside a transaction that does more."""
    of_project = projects.c.id == project_id
    had = select(projects.c.device_seconds, projects.c.usage_at).where(of_project).with_for_update()
    before, usage_at = connection.execute(had).one()
    used = decayed(before, for_s=now - usage_at, half_life_s=half_life_s) + device_seconds
    connection.execute(update(projects).where(of_project).values(device_seconds=used, usage_at=max(now, usage_at)))
