"""Idempotency keys in the database: what was asked under a key, and what was answered.

After https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07. A key belongs to one project.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, delete, select, update
from sqlalchemy.exc import IntegrityError

from service.store.engine import Database
from service.store.rows import record_of, values_of
from service.store.tables import idempotency_keys as keys


@dataclass(frozen=True, kw_only=True)
class IdempotencyRecord:
    """A request under a key, and its answer once there is one."""

    project_id: str
    key: str
    fingerprint: str
    """SHA-256 of the request, in hexadecimal digits."""
    created_at: float
    """By the database's clock, as `claimed_at`: those of replicas need not agree."""
    claimed_at: float
    """When whoever works on it last said so; 0 if nobody does."""
    status: int | None = None
    """Of the answer; None while the request is worked on."""
    headers: dict[str, str] | None = None
    body: str | None = None

    @property
    def is_first(self) -> bool:
        """Whether nobody has worked on it before."""
        return self.claimed_at == self.created_at


class IdempotencyKeys:
    """Keys of all projects. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, key: str, *, project: str, fingerprint: str, lifetime_s: float, patience_s: float
    ) -> tuple[IdempotencyRecord, bool]:
        """The record that stands under this key, and whether the caller is to do what it asks for.

        That is so where the key was free, and where the same request has no answer and was let go, or was not heard of
        for `patience_s`: it died with its service, and keeps its `created_at`. Keys older than `lifetime_s` are
        forgotten.
        """
        mine = keys.c.project_id == project, keys.c.key == key
        try:
            with self._database.write() as connection:
                now = self._now(connection)
                connection.execute(delete(keys).where(keys.c.created_at < now - lifetime_s))
                row = connection.execute(select(keys).where(*mine).with_for_update()).one_or_none()
                if row is None:
                    new = IdempotencyRecord(
                        project_id=project, key=key, fingerprint=fingerprint, created_at=now, claimed_at=now
                    )
                    given = {name: value for name, value in values_of(new).items() if name not in ("headers", "body")}
                    connection.execute(keys.insert().values(**given))
                    return new, True
                there = record_of(IdempotencyRecord, row)
                dead = there.status is None and there.claimed_at < now - patience_s
                if not dead or there.fingerprint != fingerprint:
                    return there, False
                connection.execute(update(keys).where(*mine).values(claimed_at=now))
                return replace(there, claimed_at=now), True
        except IntegrityError:  # another replica was first
            with self._database.read() as connection:
                return record_of(IdempotencyRecord, connection.execute(select(keys).where(*mine)).one()), False

    def renew(self, record: IdempotencyRecord) -> IdempotencyRecord:
        """Say that a claimed request is still being worked on; the record as it is then."""
        with self._database.write() as connection:
            now = self._now(connection)
            changed = connection.execute(update(keys).where(*_this(record)).values(claimed_at=now))
            return replace(record, claimed_at=now) if changed.rowcount else record

    def let_go(self, record: IdempotencyRecord) -> None:
        """Let the same request be worked on anew, at once: nobody knows how far it came. It keeps its `created_at`."""
        with self._database.write() as connection:
            unanswered = (*_this(record), keys.c.status.is_(None))
            connection.execute(update(keys).where(*unanswered).values(claimed_at=0.0))

    def answer(self, record: IdempotencyRecord, *, status: int, headers: dict[str, str], body: str) -> None:
        """Keep the answer to a request that was claimed."""
        given = {"status": status, "headers": headers, "body": body}
        with self._database.write() as connection:
            connection.execute(update(keys).where(*_this(record)).values(**given))

    def forget(self, record: IdempotencyRecord) -> None:
        """Free the key of a request that came to nothing."""
        with self._database.write() as connection:
            connection.execute(delete(keys).where(*_this(record), keys.c.status.is_(None)))

    def remove_before(self, at: float) -> int:
        """Forget keys from before a time; how many there were."""
        with self._database.write() as connection:
            return connection.execute(delete(keys).where(keys.c.created_at < at)).rowcount

    def _now(self, connection: Connection) -> float:
        return float(connection.execute(select(self._database.now())).scalar_one())


def _this(record: IdempotencyRecord) -> tuple[ColumnElement[bool], ...]:
    """The row as this claim left it."""
    return (
        keys.c.project_id == record.project_id,
        keys.c.key == record.key,
        keys.c.claimed_at == record.claimed_at,
    )
