"""The audit log: who did or tried what. Rows are added and, when they are old, removed; nothing changes them."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from service.store.engine import Database
from service.store.records import AuditRecord
from service.store.rows import Page, newest_first, values_of
from service.store.tables import audit_log


class Audit:
    """The audit log. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, record: AuditRecord) -> None:
        """Add a record."""
        with self._database.write() as connection:
            append_audit(connection, record)

    def list(
        self,
        *,
        project: str | None = None,
        action: str | None = None,
        actor: str | None = None,
        since: float = 0.0,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[AuditRecord]:
        """A page of records, newest first, and whether there are more.

        Raises:
            UnknownId: there is no record `after`.
        """
        wanted = {audit_log.c.project_id: project, audit_log.c.action: action, audit_log.c.actor: actor}
        query = select(audit_log).where(audit_log.c.at >= since)
        for column, value in wanted.items():
            if value is not None:
                query = query.where(column == value)
        with self._database.read() as connection:
            return newest_first(
                connection,
                query,
                kind=AuditRecord,
                table=audit_log,
                order=audit_log.c.position,
                after=after,
                limit=limit,
                noun="audit record",
            )

    def remove_before(self, time: float) -> int:
        """Forget records from before a time; how many there were."""
        with self._database.write() as connection:
            return connection.execute(delete(audit_log).where(audit_log.c.at < time)).rowcount


def append_audit(connection: Connection, record: AuditRecord) -> None:
    """`Audit.append` inside a transaction that does more."""
    connection.execute(audit_log.insert(), values_of(record))
