"""Delivers what is stored for webhooks: at least once, later again where that fails, and not for ever.

A message is stored in the transaction of what it tells of, and is `delivered` once a receiver has answered with a
status of 200 to 299. A service that dies in between leaves it `waiting`, so that its successor sends it again, under
the same `webhook-id`. Pauses between tries grow fourfold, with jitter, so that receivers that come back are not
trampled. One slow receiver keeps none of the others waiting.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass

from service.jobs.chores import LEASE_S, Chore
from service.settings import Settings
from service.store.announcements import PING
from service.store.records import WebhookDeliveryRecord, WebhookRecord
from service.store.store import Store
from service.webhooks import signing
from service.webhooks.addresses import Addresses
from service.webhooks.sending import Answer, post

log = logging.getLogger(__name__)

WEBHOOKS = "webhooks"
"""The lease of whoever delivers."""
_FACTOR = 4.0
_MOST_AT_ONCE = 32
_MOST_AT_ONE_RECEIVER = 4
_GONE = 410


@dataclass(frozen=True, kw_only=True)
class DeliveryRules:
    """How often and how long a message is tried."""

    timeout_s: float = 15.0
    """For one try."""
    first_retry_s: float = 5.0
    """Pause after the first failure; each further one is four times as long."""
    max_retry_s: float = 21_600.0
    """Longest pause."""
    max_tries: int = 12
    """After which a message has failed: a day and a half with these pauses."""
    disable_after_s: float = 432_000.0
    """Seconds without a success after which a webhook that fails is disabled."""

    def pause_s(self, num_tries: int, *, retry_after_s: float | None) -> float:
        """Seconds until the next try, after `num_tries`; three quarters to five quarters of the plan, by chance."""
        planned = min(self.max_retry_s, self.first_retry_s * _FACTOR ** (num_tries - 1))
        return max(planned * random.uniform(0.75, 1.25), retry_after_s or 0.0)


class Deliverer:
    """Sends what is due, in background threads."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        addresses: Addresses,
        rules: DeliveryRules | None = None,
        poll_interval_s: float = 1.0,
        lease_s: float = LEASE_S,
    ) -> None:
        """`owner` is the replica: one at a time delivers."""
        self._store = store
        self._addresses = addresses
        self._rules = rules or DeliveryRules()
        self._lock = threading.Lock()
        self._sending: dict[str, threading.Thread] = {}
        self._receivers: Counter[str] = Counter()
        self.chore = Chore(
            store,
            name=WEBHOOKS,
            owner=owner,
            interval_s=poll_interval_s,
            turn=self._send_due,
            needed=lambda: store.deliveries.any_due(now=time.time()),
            lease_s=lease_s,
        )

    def start(self) -> None:
        """Begin to deliver."""
        self.chore.start()

    def stop(self, *, grace_s: float = 3.0) -> None:
        """End; what has not been answered within `grace_s` is sent again by whoever comes next."""
        self.chore.stop()
        deadline = time.monotonic() + grace_s
        with self._lock:
            threads = list(self._sending.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wake(self) -> None:
        """Look now for what is due."""
        self.chore.wake()

    def _send_due(self) -> None:
        for webhook_id, messages in self._store.deliveries.due(now=time.time(), each=2 * _MOST_AT_ONE_RECEIVER).items():
            webhook = self._store.webhooks.get(webhook_id)
            if webhook is None or webhook.disabled_at is not None:
                continue
            # One that has been failing is only probed: its messages would fill all places with waiting.
            most = _MOST_AT_ONE_RECEIVER if webhook.failing_since is None else 1
            for message in messages:
                self._begin(webhook, message, most=most)

    def _begin(self, webhook: WebhookRecord, message: WebhookDeliveryRecord, *, most: int) -> None:
        with self._lock:
            full = len(self._sending) >= _MOST_AT_ONCE or self._receivers[webhook.id] >= most
            if full or message.id in self._sending:
                return
            thread = threading.Thread(target=self._send, args=(webhook, message), name=message.id, daemon=True)
            thread.start()  # where the system has no room for it, nothing has been counted yet
            self._sending[message.id] = thread  # before it can end, as its end needs the lock
            self._receivers[webhook.id] += 1

    def _send(self, webhook: WebhookRecord, message: WebhookDeliveryRecord) -> None:
        try:
            if self._store.deliveries.get(message.id) != message:
                return  # it was read while its last try was just being noted
            payload, now = message.payload.encode(), time.time()
            secrets = signing.in_force(webhook.secrets, now=now)
            headers = signing.headers(secrets, id=message.id, payload=payload, now=now)
            rules = self._rules
            answer = post(webhook.url, payload, headers=headers, addresses=self._addresses, timeout_s=rules.timeout_s)
            self._note(webhook, message, answer)
        except Exception:
            log.exception("error while delivering %s to webhook %s; it is tried again", message.id, webhook.id)
        finally:
            with self._lock:
                del self._sending[message.id]
                self._receivers[webhook.id] -= 1
            self.chore.wake()

    def _note(self, webhook: WebhookRecord, message: WebhookDeliveryRecord, answer: Answer) -> None:
        tries, now = message.num_tries + 1, time.time()
        told = {"num_tries": tries, "last_status": answer.status, "last_error": answer.error}
        if answer.succeeded:
            changes = {"status": "delivered", "next_try_at": None, "delivered_at": now}
        elif tries >= self._rules.max_tries or message.event_type == PING:
            changes = {"status": "failed", "next_try_at": None}
        else:
            changes = {"next_try_at": now + self._rules.pause_s(tries, retry_after_s=answer.retry_after_s)}
        noted = self._store.deliveries.note_try(message, succeeded=answer.succeeded, **told, **changes)
        if noted and not answer.succeeded:
            self._disable_if_hopeless(webhook, answer)

    def _disable_if_hopeless(self, webhook: WebhookRecord, answer: Answer) -> None:
        now = time.time()
        if answer.status == _GONE:
            reason = "the receiver answered 410 Gone"
        elif webhook.failing_since is not None and now - webhook.failing_since > self._rules.disable_after_s:
            days = (now - webhook.failing_since) / 86_400
            reason = f"nothing could be delivered for {days:.1f} days; the last error: {answer.error}"
        else:
            return
        log.warning("webhook %s is disabled: %s", webhook.id, reason)
        self._store.webhooks.disable(webhook.id, reason=reason)


def deliverer_of(settings: Settings, store: Store, *, owner: str) -> Deliverer:
    """The deliverer of a replica, as its settings want it."""
    rules = DeliveryRules(
        timeout_s=settings.webhook_timeout_s,
        first_retry_s=settings.webhook_first_retry_s,
        max_retry_s=settings.webhook_max_retry_s,
        max_tries=settings.webhook_max_tries,
        disable_after_s=settings.webhook_disable_after_s,
    )
    addresses = Addresses.of(settings.webhook_allowed_networks)
    return Deliverer(store, owner=owner, addresses=addresses, rules=rules, poll_interval_s=settings.poll_interval_s)
