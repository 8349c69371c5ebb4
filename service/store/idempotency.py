"""Idempotency keys in the database: what was asked under a key, and what was answered.

After https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07. A key belongs to one project.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, delete, select, update
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
    claimed_at: float
    """When somebody last began to work on it."""
    status: int | None = None
    """Of the answer; None while the request is worked on."""
    headers: dict[str, str] | None = None
    body: str | None = None


class IdempotencyKeys:
    """Keys of all projects. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, record: IdempotencyRecord, *, lifetime_s: float, patience_s: float
    ) -> tuple[IdempotencyRecord, bool]:
        """The record that stands under this key, and whether the caller is to do what it asks for.

        That is so where the key was free, and where the same request had no answer after `patience_s`: it died with
        its service, and keeps its `created_at`. Keys older than `lifetime_s` are forgotten.
        """
        mine = keys.c.project_id == record.project_id, keys.c.key == record.key
        given = {name: value for name, value in values_of(record).items() if name not in ("headers", "body")}
        try:
            with self._database.write() as connection:
                connection.execute(delete(keys).where(keys.c.created_at < record.created_at - lifetime_s))
                row = connection.execute(select(keys).where(*mine).with_for_update()).one_or_none()
                if row is None:
                    connection.execute(keys.insert().values(**given))
                    return record, True
                there = record_of(IdempotencyRecord, row)
                dead = there.status is None and there.claimed_at < record.claimed_at - patience_s
                if not dead or there.fingerprint != record.fingerprint:
                    return there, False
                connection.execute(update(keys).where(*mine).values(claimed_at=record.claimed_at))
                return replace(there, claimed_at=record.claimed_at), True
        except IntegrityError:  # another replica was first
            with self._database.read() as connection:
                return record_of(IdempotencyRecord, connection.execute(select(keys).where(*mine)).one()), False

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


def _this(record: IdempotencyRecord) -> tuple[ColumnElement[bool], ...]:
    """The row as this claim left it."""
    return (
        keys.c.project_id == record.project_id,
        keys.c.key == record.key,
        keys.c.claimed_at == record.claimed_at,
    )
