"""The control planes that work on this database: who they are, and when each was last seen."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update

from service.store.engine import Database
from service.store.records import ReplicaRecord
from service.store.rows import record_of
from service.store.tables import replicas

REPLICA_GONE_S = 60.0
"""One that was not seen for so long is taken to be gone."""


class Replicas:
    """Replicas. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, id: str, *, host: str, pid: int) -> None:
        """Note that a replica lives."""
        now = self._database.now()
        with self._database.write() as connection:
            seen = connection.execute(update(replicas).where(replicas.c.id == id).values(seen_at=now))
            if seen.rowcount == 0:
                connection.execute(replicas.insert().values(id=id, host=host, pid=pid, started_at=now, seen_at=now))

    def seen_within(self, seconds: float) -> Sequence[ReplicaRecord]:
        """Replicas that were seen in the last `seconds`, the oldest first."""
        recent = replicas.c.seen_at >= self._database.now() - seconds
        with self._database.read() as connection:
            rows = connection.execute(select(replicas).where(recent).order_by(replicas.c.started_at))
            return [record_of(ReplicaRecord, row) for row in rows]

    def hosts_within(self, seconds: float) -> set[str]:
        """Machines on which a replica was seen in the last `seconds`."""
        return {replica.host for replica in self.seen_within(seconds)}

    def forget(self, id: str) -> None:
        """Remove a replica that ends, and those that have not been seen for a day."""
        old = replicas.c.seen_at < self._database.now() - 86_400
        with self._database.write() as connection:
            connection.execute(delete(replicas).where((replicas.c.id == id) | old))
