"""Webhooks and their deliveries over REST."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Answer, Body
from service.schemas.pages import Named
from service.store.records import WebhookDeliveryRecord, WebhookRecord

EventType = Literal[
    "fine_tuning.job.queued",
    "fine_tuning.job.running",
    "fine_tuning.job.paused",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "fine_tuning.job.checkpoint",
    "fine_tuning.sweep.succeeded",
    "fine_tuning.sweep.failed",
    "fine_tuning.sweep.cancelled",
]
EventTypes = Annotated[list[EventType], Field(max_length=32)]
Url = Annotated[str, Field(min_length=1, max_length=2048)]
DAY_S = 86_400.0


class WebhookCreate(Body):
    """A new webhook."""

    url: Url
    """Where to POST to: an https:// address of the world, or one in a network that the operator allows."""
    event_types: EventTypes = []
    """What to tell of; all, if empty."""


class WebhookChange(Body):
    """Changes to a webhook; what is left out stays."""

    url: Url | None = None
    """Where to POST to from now on."""
    event_types: EventTypes | None = None
    """What to tell of from now on."""
    enabled: bool | None = None
    """False: send nothing; true: begin again."""


class SecretRotation(Body):
    """How a secret is replaced."""

    overlap_s: Annotated[float, Field(ge=0, le=30 * DAY_S, allow_inf_nan=False)] = DAY_S
    """Seconds for which the old secret signs too, beside the new one."""


class Replay(Body):
    """Which messages to send again."""

    since: Annotated[float, Field(ge=0, le=1e12)]
    """Unix seconds: those made from then on."""
    until: Annotated[float, Field(ge=0, le=1e12)] | None = None
    """Unix seconds: and up to then; null: up to now."""
    status: Literal["failed", "all"] = "failed"
    """Those that have failed, or delivered ones too."""


class Webhook(Named):
    """A webhook, without its secrets."""

    id: str
    """`wh_...`"""
    object: Literal["webhook"] = "webhook"
    """Always `webhook`."""
    created_at: int
    """Unix seconds."""
    url: str
    """Where messages go."""
    event_types: list[str]
    """What it is told of; all, if empty."""
    enabled: bool
    """Whether messages are sent."""
    disabled_reason: str | None
    """Why not."""
    failing_since: int | None
    """Unix seconds of the first of the tries that have failed since the last success."""
    num_secrets: int
    """Secrets that sign now: more than one after a rotation, until the old one expires."""

    @classmethod
    def from_record(cls, record: WebhookRecord) -> Webhook:
        """The webhook as it is sent."""
        return cls(**_fields(record))


class WebhookWithSecret(Webhook):
    """A webhook with its newest secret, which is shown only here."""

    secret: str
    """`whsec_...`: receivers check signatures with it."""

    @classmethod
    def from_record(cls, record: WebhookRecord) -> WebhookWithSecret:
        """The webhook as it is sent after its secret was made."""
        return cls(**_fields(record), secret=record.secrets[0]["secret"])


class WebhookDelivery(Named):
    """A message to a webhook."""

    id: str
    """`msg_...`: the header `webhook-id`, the same at each try."""
    object: Literal["webhook.delivery"] = "webhook.delivery"
    """Always `webhook.delivery`."""
    created_at: int
    """Unix seconds."""
    webhook_id: str
    """Whom it is for."""
    event_type: str
    """What it tells of."""
    payload: str
    """The body, byte for byte as it is signed."""
    status: Literal["waiting", "delivered", "failed"]
    """Where it stands; `waiting` for its first or next try."""
    num_tries: int
    """Tries so far, since it was last sent anew."""
    next_try_at: int | None
    """Unix seconds."""
    last_status: int | None
    """HTTP status of the last answer; null if there was none."""
    last_error: str | None
    """Why the last try failed."""
    delivered_at: int | None
    """Unix seconds."""

    @classmethod
    def from_record(cls, record: WebhookDeliveryRecord) -> WebhookDelivery:
        """The delivery as it is sent."""
        return cls(
            id=record.id,
            created_at=int(record.created_at),
            webhook_id=record.webhook_id,
            event_type=record.event_type,
            payload=record.payload,
            status=record.status,
            num_tries=record.num_tries,
            next_try_at=_seconds(record.next_try_at),
            last_status=record.last_status,
            last_error=record.last_error,
            delivered_at=_seconds(record.delivered_at),
        )


class DeletedWebhook(Answer):
    """What is said of a webhook that is no more."""

    id: str
    """Its id."""
    object: Literal["webhook.deleted"] = "webhook.deleted"
    """Always `webhook.deleted`."""
    deleted: bool = True
    """Always true."""


class Replayed(Answer):
    """What a replay came to."""

    object: Literal["webhook.replay"] = "webhook.replay"
    """Always `webhook.replay`."""
    num_messages: int
    """Messages that are sent again."""


def _fields(record: WebhookRecord) -> dict[str, object]:
    now = time.time()
    return {
        "id": record.id,
        "created_at": int(record.created_at),
        "url": record.url,
        "event_types": list(record.event_types),
        "enabled": record.disabled_at is None,
        "disabled_reason": record.disabled_reason,
        "failing_since": _seconds(record.failing_since),
        "num_secrets": sum((entry["expires_at"] or now + 1) > now for entry in record.secrets),
    }


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)


def deliveries_of(records: Sequence[WebhookDeliveryRecord]) -> list[WebhookDelivery]:
    """Deliveries as they are sent."""
    return [WebhookDelivery.from_record(record) for record in records]
