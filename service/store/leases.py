"""Work that one replica at a time does: a name, who holds it, and until when.

A holder that dies is replaced once its lease has run out. Times are the database's own, so that the clocks of replicas
need not agree. The scheme is dstack's (owner, token, expiry), https://github.com/dstackai/dstack.
"""

from __future__ import annotations

import math
import secrets
import time

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError

from service.store.engine import Database
from service.store.tables import leases


class Leases:
    """Leases by name. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held_until: dict[tuple[str, str], float] = {}

    def keep(self, name: str, *, owner: str, ttl_s: float) -> bool:
        """Whether `owner` holds a lease, for callers who ask often: it is taken or renewed, but in the first third of
        its time the database is not asked again."""
        began = time.monotonic()
        if began < self._held_until.get((name, owner), -math.inf):
            return True
        if self.acquire(name, owner=owner, ttl_s=ttl_s) is None:
            self._held_until.pop((name, owner), None)
            return False
        self._held_until[name, owner] = began + ttl_s / 3
        return True

    def acquire(self, name: str, *, owner: str, ttl_s: float) -> str | None:
        """Take or renew a lease for `ttl_s` seconds; its token, which changes hands with it, or None if somebody
        else holds it."""
        now = self._database.now()
        free = or_(leases.c.owner.is_(None), leases.c.expires_at < now)
        try:
            with self._database.write() as connection:
                mine = connection.execute(
                    update(leases)
                    .where(leases.c.name == name, leases.c.owner == owner, leases.c.expires_at >= now)
                    .values(expires_at=now + ttl_s)
                )
                if mine.rowcount:
                    return str(connection.execute(select(leases.c.token).where(leases.c.name == name)).scalar_one())
                given = {"owner": owner, "token": secrets.token_hex(8), "expires_at": now + ttl_s}
                taken = connection.execute(update(leases).where(leases.c.name == name, free).values(**given))
                if taken.rowcount == 0:
                    if connection.execute(select(leases.c.name).where(leases.c.name == name)).first() is not None:
                        return None
                    connection.execute(leases.insert().values(name=name, **given))
                return str(given["token"])
        except IntegrityError:  # another replica made the row in between
            return None

    def seize(self, name: str, *, owner: str, ttl_s: float) -> None:
        """Take a lease from whoever holds it, for a caller who knows that the holder is gone. What else that one holds
        is free at once, too: its clock may have been ahead."""
        with self._database.write() as connection:
            gone = connection.execute(select(leases.c.owner).where(leases.c.name == name)).scalar_one_or_none()
            if gone is not None and gone != owner:
                connection.execute(update(leases).where(leases.c.owner == gone).values(owner=None))
        self.acquire(name, owner=owner, ttl_s=ttl_s)

    def release(self, name: str, *, owner: str) -> None:
        """Give a lease back, if `owner` holds it."""
        self._held_until.pop((name, owner), None)
        with self._database.write() as connection:
            connection.execute(
                update(leases)
                .where(leases.c.name == name, leases.c.owner == owner)
                .values(owner=None, token=None, expires_at=None)
            )

    def holder(self, name: str) -> str | None:
        """Who holds a lease now, or None."""
        held = select(leases.c.owner).where(leases.c.name == name, leases.c.expires_at >= self._database.now())
        with self._database.read() as connection:
            return connection.execute(held).scalar_one_or_none()
