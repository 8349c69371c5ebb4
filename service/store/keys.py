"""API keys in the database, by a hash of the key: who reads the database learns no key."""

from __future__ import annotations

import math
import time

from sqlalchemy import ColumnElement, and_, or_, select, update

from service.store.engine import Database
from service.store.records import ApiKeyRecord, UnknownId
from service.store.rows import record_of, values_of
from service.store.tables import api_keys

_USE_NOTED_EVERY_S = 60.0
REMEMBERED_S = 1.0
"""For how long a key that was valid is taken to be; a key that another process revokes ends that much later here."""
_MOST_REMEMBERED = 4096


class Keys:
    """API keys. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._remembered: dict[str, tuple[ApiKeyRecord, float]] = {}
        self._was_made = False

    def create(self, record: ApiKeyRecord) -> ApiKeyRecord:
        """Store a new key."""
        with self._database.write() as connection:
            connection.execute(api_keys.insert().values(**values_of(record)))
        return record

    def remembered(self, hash: str) -> ApiKeyRecord | None:
        """The key with this hash if it was found to be valid less than a second ago; asks no database."""
        record, until = self._remembered.get(hash, (None, 0.0))
        if record is None or time.monotonic() > until or (record.expires_at or math.inf) <= time.time():
            return None
        return record

    def find(self, hash: str) -> ApiKeyRecord | None:
        """The key with this hash that is valid now, or None. That it was used is noted once a minute."""
        known = self.remembered(hash)
        if known is not None:
            return known
        now = time.time()
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.hash == hash, _is_valid(now))).one_or_none()
        if row is None:
            return None
        record = record_of(ApiKeyRecord, row)
        if (record.last_used_at or 0) < now - _USE_NOTED_EVERY_S:
            with self._database.write() as connection:
                connection.execute(update(api_keys).where(api_keys.c.id == record.id).values(last_used_at=now))
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[hash] = record, time.monotonic() + REMEMBERED_S
        return record

    def any(self) -> bool:
        """Whether a key was ever made; one that has ended still says that keys are wanted."""
        if not self._was_made:  # what was made stays, ended or not
            with self._database.read() as connection:
                self._was_made = connection.execute(select(api_keys.c.id).limit(1)).first() is not None
        return self._was_made

    def any_valid(self) -> bool:
        """Whether there is a key that is valid now."""
        with self._database.read() as connection:
            return connection.execute(select(api_keys.c.id).where(_is_valid(time.time())).limit(1)).first() is not None

    def get(self, id: str) -> ApiKeyRecord | None:
        """The key of this id, valid or not, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == id)).one_or_none()
            return None if row is None else record_of(ApiKeyRecord, row)

    def list(self, *, project: str | None = None) -> list[ApiKeyRecord]:
        """The keys of a project, or of all of them, newest first."""
        query = select(api_keys).order_by(api_keys.c.position.desc())
        if project is not None:
            query = query.where(api_keys.c.project_id == project)
        with self._database.read() as connection:
            return [record_of(ApiKeyRecord, row) for row in connection.execute(query)]

    def end(self, id: str, *, at: float) -> ApiKeyRecord:
        """Let a key end at a time, which is now to revoke it, and later to let its successor take over; what has ended
        or will end sooner keeps its time.

        Raises:
            UnknownId: there is no such key.
        """
        ends = api_keys.c.revoked_at if at <= time.time() else api_keys.c.expires_at
        self._remembered.clear()
        sooner = and_(api_keys.c.id == id, or_(ends.is_(None), ends > at))
        with self._database.write() as connection:
            connection.execute(update(api_keys).where(sooner).values({ends.name: at}))
            row = connection.execute(select(api_keys).where(api_keys.c.id == id)).one_or_none()
            if row is None:
                raise UnknownId("API key", id)
        self._remembered.clear()  # again: somebody may have read it in between
        return record_of(ApiKeyRecord, row)


def _is_valid(now: float) -> ColumnElement[bool]:
    unexpired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    return and_(api_keys.c.revoked_at.is_(None), unexpired)
