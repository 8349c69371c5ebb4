"""The audit log: who did or tried what. Rows are added and, when they are old, removed; nothing changes them."""

from __future__ import annotations

from sqlalchemy import delete, select

from service.store.engine import Database
from service.store.records import AuditRecord
from service.store.rows import record_of, values_of
from service.store.tables import audit_log


class Audit:
    """The audit log. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, record: AuditRecord) -> None:
        """Add a record."""
        with self._database.write() as connection:
            connection.execute(audit_log.insert().values(**values_of(record)))

    def list(
        self, *, project: str | None = None, action: str | None = None, since: float = 0.0, limit: int = 100
    ) -> list[AuditRecord]:
        """The newest records, newest first."""
        query = select(audit_log).where(audit_log.c.at >= since).order_by(audit_log.c.position.desc()).limit(limit)
        if project is not None:
            query = query.where(audit_log.c.project_id == project)
        if action is not None:
            query = query.where(audit_log.c.action == action)
        with self._database.read() as connection:
            return [record_of(AuditRecord, row) for row in connection.execute(query)]

    def remove_before(self, time: float) -> int:
        """Forget records from before a time; how many there were."""
        with self._database.write() as connection:
            return connection.execute(delete(audit_log).where(audit_log.c.at < time)).rowcount
