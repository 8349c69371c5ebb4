"""Webhooks and their deliveries in the database. `service.store.announcements` makes most deliveries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update

from service.store.announcements import new_delivery
from service.store.engine import Database
from service.store.records import UnknownId, WebhookDeliveryRecord, WebhookRecord
from service.store.rows import Page, newest_first, record_of, values_of
from service.store.tables import webhook_deliveries as deliveries
from service.store.tables import webhooks

_ENABLED = deliveries.c.webhook_id.in_(select(webhooks.c.id).where(webhooks.c.disabled_at.is_(None)))


class Webhooks:
    """Webhooks of all projects. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, record: WebhookRecord) -> WebhookRecord:
        """Store a new webhook."""
        with self._database.write() as connection:
            connection.execute(webhooks.insert().values(**values_of(record)))
        return record

    def get(self, id: str) -> WebhookRecord | None:
        """The webhook, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(webhooks).where(webhooks.c.id == id)).one_or_none()
            return None if row is None else record_of(WebhookRecord, row)

    def list(self, *, project: str, after: str | None = None, limit: int = 20) -> Page[WebhookRecord]:
        """A page of a project's webhooks, newest first, and whether there are more.

        Raises:
            UnknownId: there is no webhook `after` in that list.
        """
        with self._database.read() as connection:
            return newest_first(
                connection,
                select(webhooks).where(webhooks.c.project_id == project),
                kind=WebhookRecord,
                table=webhooks,
                order=webhooks.c.position,
                after=after,
                limit=limit,
                noun="webhook",
            )

    def count(self, *, project: str) -> int:
        """How many webhooks a project has."""
        query = select(func.count()).select_from(webhooks).where(webhooks.c.project_id == project)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def update(self, id: str, **changes: Any) -> WebhookRecord:
        """Change fields.

        Raises:
            UnknownId: there is no such webhook.
        """
        with self._database.write() as connection:
            if connection.execute(update(webhooks).where(webhooks.c.id == id).values(**changes)).rowcount == 0:
                raise UnknownId("webhook", id)
            return record_of(WebhookRecord, connection.execute(select(webhooks).where(webhooks.c.id == id)).one())

    def disable(self, id: str, *, reason: str) -> None:
        """Send no more to a webhook; what still waits for it has failed, and can be sent again later."""
        waiting = and_(deliveries.c.webhook_id == id, deliveries.c.status == "waiting")
        given = {"status": "failed", "next_try_at": None, "last_error": f"not sent: the webhook was disabled: {reason}"}
        with self._database.write() as connection:
            changed = {"disabled_at": time.time(), "disabled_reason": reason}
            connection.execute(update(webhooks).where(webhooks.c.id == id).values(**changed))
            connection.execute(update(deliveries).where(waiting).values(**given))

    def delete(self, id: str) -> bool:
        """Forget a webhook and its deliveries. False if there was none."""
        with self._database.write() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == id))
            return connection.execute(delete(webhooks).where(webhooks.c.id == id)).rowcount > 0


class WebhookDeliveries:
    """Messages to webhooks. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, webhook_id: str, event_type: str, payload: str) -> WebhookDeliveryRecord:
        """Store a message to one webhook, to be sent at once."""
        record = new_delivery(webhook_id, event_type, payload, now=time.time())
        with self._database.write() as connection:
            connection.execute(deliveries.insert().values(**values_of(record)))
        return record

    def get(self, id: str) -> WebhookDeliveryRecord | None:
        """The delivery, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == id)).one_or_none()
            return None if row is None else record_of(WebhookDeliveryRecord, row)

    def list(
        self, webhook_id: str, *, status: str | None = None, after: str | None = None, limit: int = 20
    ) -> Page[WebhookDeliveryRecord]:
        """A page of a webhook's deliveries, newest first, and whether there are more.

        Raises:
            UnknownId: there is no delivery `after` in that list.
        """
        query = select(deliveries).where(deliveries.c.webhook_id == webhook_id)
        if status is not None:
            query = query.where(deliveries.c.status == status)
        with self._database.read() as connection:
            return newest_first(
                connection,
                query,
                kind=WebhookDeliveryRecord,
                table=deliveries,
                order=deliveries.c.position,
                after=after,
                limit=limit,
                noun="delivery",
            )

    def any_due(self, *, now: float) -> bool:
        """Whether something is to be sent."""
        with self._database.read() as connection:
            return bool(connection.execute(select(select(deliveries.c.position).where(_due(now)).exists())).scalar())

    def due(self, *, now: float, each: int) -> dict[str, Sequence[WebhookDeliveryRecord]]:
        """What is to be sent, by webhook, at most `each` for one, so that a slow receiver keeps nobody waiting."""
        found: dict[str, Sequence[WebhookDeliveryRecord]] = {}
        with self._database.read() as connection:
            for id in connection.execute(select(deliveries.c.webhook_id).where(_due(now)).distinct()).scalars().all():
                query = select(deliveries).where(deliveries.c.webhook_id == id, _due(now))
                rows = connection.execute(query.order_by(deliveries.c.next_try_at, deliveries.c.position).limit(each))
                found[id] = [record_of(WebhookDeliveryRecord, row) for row in rows]
        return found

    def note_try(self, before: WebhookDeliveryRecord, *, succeeded: bool, **changes: Any) -> bool:
        """Store what became of a try, and since when the webhook has been failing.

        False, and nothing stored, if the delivery is no longer as `before`: somebody else tried, or it was redelivered.
        """
        same = and_(
            deliveries.c.id == before.id,
            deliveries.c.status == before.status,
            deliveries.c.num_tries == before.num_tries,
            deliveries.c.next_try_at == before.next_try_at,
        )
        since = None if succeeded else func.coalesce(webhooks.c.failing_since, time.time())
        with self._database.write() as connection:
            if connection.execute(update(deliveries).where(same).values(**changes)).rowcount == 0:
                return False
            connection.execute(update(webhooks).where(webhooks.c.id == before.webhook_id).values(failing_since=since))
            return True

    def redeliver(self, id: str) -> WebhookDeliveryRecord:
        """Send a message again now, under its old id, as if it had never been tried.

        Raises:
            UnknownId: there is no such delivery.
        """
        with self._database.write() as connection:
            if connection.execute(update(deliveries).where(deliveries.c.id == id).values(**_anew())).rowcount == 0:
                raise UnknownId("delivery", id)
            row = connection.execute(select(deliveries).where(deliveries.c.id == id)).one()
            return record_of(WebhookDeliveryRecord, row)

    def replay(self, webhook_id: str, *, since: float, until: float, only_failed: bool) -> int:
        """Send all messages again that were made between two times; how many. Those that wait are left alone."""
        wanted = deliveries.c.status == "failed" if only_failed else deliveries.c.status != "waiting"
        between = and_(deliveries.c.created_at >= since, deliveries.c.created_at <= until)
        chosen = and_(deliveries.c.webhook_id == webhook_id, wanted, between)
        with self._database.write() as connection:
            return connection.execute(update(deliveries).where(chosen).values(**_anew())).rowcount

    def remove_before(self, at: float) -> int:
        """Forget messages from before a time that do not wait any more; how many there were."""
        old = and_(deliveries.c.created_at < at, deliveries.c.status != "waiting")
        with self._database.write() as connection:
            return connection.execute(delete(deliveries).where(old)).rowcount


def _due(now: float) -> ColumnElement[bool]:
    return and_(deliveries.c.status == "waiting", deliveries.c.next_try_at <= now, _ENABLED)


def _anew() -> dict[str, Any]:
    return {"status": "waiting", "num_tries": 0, "next_try_at": time.time()}
