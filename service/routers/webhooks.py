"""Webhooks: register, change, rotate secrets, look at deliveries and send them again."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request

from service.dependencies import After, TheCaller, TheSettings, TheStore
from service.errors import Conflict, InvalidRequest, NotFound
from service.schemas.base import ErrorAnswer
from service.schemas.pages import IdPage
from service.schemas.webhooks import (
    DeletedWebhook,
    Replay,
    Replayed,
    SecretRotation,
    Webhook,
    WebhookChange,
    WebhookCreate,
    WebhookDelivery,
    WebhookWithSecret,
    deliveries_of,
)
from service.settings import Settings
from service.store.announcements import PING, payload_of
from service.store.records import WebhookRecord
from service.webhooks.addresses import Addresses, AddressRefused
from service.webhooks.signing import new_secret, rotated

# Not an idempotent route: the answer with the secret in it must be stored nowhere.
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

NO_WEBHOOK: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such webhook."}}
BAD_URL: dict[int | str, dict[str, Any]] = {400: {"model": ErrorAnswer, "description": "Nothing is sent to that URL."}}
DISABLED: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "The webhook is disabled."}}
MAX_WEBHOOKS = 20
"""Of one project."""


def _webhook(webhook_id: Annotated[str, Path(description="`wh_...`")], store: TheStore, caller: TheCaller) -> Any:
    record = store.webhooks.get(webhook_id)
    if record is None or record.project_id != caller.project_id:
        raise NotFound(f"there is no webhook {webhook_id!r}; GET /v1/webhooks lists them", param="webhook_id")
    return record


TheWebhook = Annotated[WebhookRecord, Depends(_webhook)]


@router.post(
    "",
    responses={**BAD_URL, 409: {"model": ErrorAnswer, "description": "There are as many as a project may have."}},
)
def create_webhook(body: WebhookCreate, store: TheStore, settings: TheSettings, caller: TheCaller) -> WebhookWithSecret:
    """Register a webhook. The answer holds its secret, which is not shown again."""
    _check_url(body.url, settings)
    if store.webhooks.count(project=caller.project_id) >= MAX_WEBHOOKS:
        raise Conflict(f"the project has {MAX_WEBHOOKS} webhooks, which is as many as it may have; delete one")
    record = WebhookRecord(
        id=f"wh_{secrets.token_hex(12)}",
        project_id=caller.project_id,
        url=body.url,
        event_types=list(dict.fromkeys(body.event_types)),
        secrets=[{"secret": new_secret(), "expires_at": None}],
        created_at=time.time(),
    )
    return WebhookWithSecret.from_record(store.webhooks.create(record))


@router.get("")
def list_webhooks(
    store: TheStore, caller: TheCaller, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> IdPage[Webhook]:
    """Webhooks, newest first."""
    records, has_more = store.webhooks.list(project=caller.project_id, after=after, limit=limit)
    return IdPage[Webhook].of([Webhook.from_record(record) for record in records], has_more=has_more)


@router.get("/{webhook_id}", responses=NO_WEBHOOK)
def retrieve_webhook(webhook: TheWebhook) -> Webhook:
    """One webhook."""
    return Webhook.from_record(webhook)


@router.patch("/{webhook_id}", responses={**NO_WEBHOOK, **BAD_URL})
def change_webhook(webhook: TheWebhook, body: WebhookChange, store: TheStore, settings: TheSettings) -> Webhook:
    """Change where a webhook leads or what it is told of; disable it, or begin again."""
    changes: dict[str, Any] = {}
    if body.url is not None:
        _check_url(body.url, settings)
        changes["url"] = body.url
    if body.event_types is not None:
        changes["event_types"] = list(dict.fromkeys(body.event_types))
    if body.enabled:
        changes |= {"disabled_at": None, "disabled_reason": None, "failing_since": None}
    if changes:
        webhook = store.webhooks.update(webhook.id, **changes)
    if body.enabled is False and webhook.disabled_at is None:
        store.webhooks.disable(webhook.id, reason="by request")
        webhook = store.webhooks.get(webhook.id) or webhook
    return Webhook.from_record(webhook)


@router.post("/{webhook_id}/rotate_secret", responses=NO_WEBHOOK)
def rotate_secret(webhook: TheWebhook, body: SecretRotation, store: TheStore) -> WebhookWithSecret:
    """Make a new secret, which the answer shows once. For a while both sign, so that receivers can be changed over."""
    entries = rotated(webhook.secrets, now=time.time(), overlap_s=body.overlap_s)
    return WebhookWithSecret.from_record(store.webhooks.update(webhook.id, secrets=entries))


@router.delete("/{webhook_id}", responses=NO_WEBHOOK)
def delete_webhook(webhook: TheWebhook, store: TheStore) -> DeletedWebhook:
    """Delete a webhook with its deliveries."""
    store.webhooks.delete(webhook.id)
    return DeletedWebhook(id=webhook.id)


@router.post("/{webhook_id}/ping", responses={**NO_WEBHOOK, **DISABLED})
def ping_webhook(webhook: TheWebhook, store: TheStore, request: Request) -> WebhookDelivery:
    """Send a test message, `webhook.ping`, once; the delivery tells what came of it."""
    _require_enabled(webhook)
    delivery = store.deliveries.add(webhook.id, PING, payload_of(PING, {"id": webhook.id}))
    request.app.state.deliverer.wake()
    return WebhookDelivery.from_record(delivery)


@router.post("/{webhook_id}/replay", responses={**NO_WEBHOOK, **DISABLED})
def replay_deliveries(webhook: TheWebhook, body: Replay, store: TheStore, request: Request) -> Replayed:
    """Send all messages of a span of time again, under their old ids."""
    _require_enabled(webhook)
    until = time.time() if body.until is None else body.until
    only_failed = body.status == "failed"
    num_messages = store.deliveries.replay(webhook.id, since=body.since, until=until, only_failed=only_failed)
    request.app.state.deliverer.wake()
    return Replayed(num_messages=num_messages)


@router.get("/{webhook_id}/deliveries", responses=NO_WEBHOOK)
def list_deliveries(
    webhook: TheWebhook,
    store: TheStore,
    status: Annotated[Literal["waiting", "delivered", "failed"] | None, Query(description="Only such.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> IdPage[WebhookDelivery]:
    """Messages to a webhook, newest first."""
    records, has_more = store.deliveries.list(webhook.id, status=status, after=after, limit=limit)
    return IdPage[WebhookDelivery].of(deliveries_of(records), has_more=has_more)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", responses={**NO_WEBHOOK, **DISABLED})
def redeliver(
    webhook: TheWebhook,
    delivery_id: Annotated[str, Path(description="`msg_...`")],
    store: TheStore,
    request: Request,
) -> WebhookDelivery:
    """Send one message again, under its old id."""
    record = store.deliveries.get(delivery_id)
    if record is None or record.webhook_id != webhook.id:
        raise NotFound(f"webhook {webhook.id} has no delivery {delivery_id!r}", param="delivery_id")
    _require_enabled(webhook)
    again = store.deliveries.redeliver(delivery_id)
    request.app.state.deliverer.wake()
    return WebhookDelivery.from_record(again)


def _check_url(url: str, settings: Settings) -> None:
    try:
        Addresses.of(settings.webhook_allowed_networks).check_url(url)
    except AddressRefused as error:
        raise InvalidRequest(str(error), param="url") from None


def _require_enabled(webhook: WebhookRecord) -> None:
    if webhook.disabled_at is not None:
        message = f"webhook {webhook.id} is disabled: {webhook.disabled_reason}; enable it with PATCH first"
        raise Conflict(message)
