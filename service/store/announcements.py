"""What webhooks are told of: a message to each that wants it, stored in the transaction of the change it tells of."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from service import logs
from service.store.records import CheckpointRecord, JobStatus, WebhookDeliveryRecord
from service.store.rows import values_of
from service.store.tables import jobs, webhook_deliveries, webhooks

logger = logging.getLogger(__name__)

JOB_EVENTS = {status: f"fine_tuning.job.{status.value}" for status in JobStatus if status != "validating_files"}
CHECKPOINT_EVENT = "fine_tuning.job.checkpoint"
SWEEP_EVENTS = tuple(f"fine_tuning.sweep.{status}" for status in ("succeeded", "failed", "cancelled"))
PING = "webhook.ping"
"""Sent when somebody asks for it, whatever the webhook listens to."""
EVENT_TYPES = (*JOB_EVENTS.values(), CHECKPOINT_EVENT, *SWEEP_EVENTS)
"""What a webhook may listen to. Those of ended jobs are OpenAI's."""


def announce_job(connection: Connection, job_id: str, status: JobStatus) -> None:
    """Tell of a job's new status, inside the transaction that sets it."""
    project = connection.execute(select(jobs.c.project_id).where(jobs.c.id == job_id)).scalar_one()
    with logs.about(job_id=job_id):
        logger.info("the job of project %s is now %s", project, status.value)
    announce(connection, project, JOB_EVENTS[status], {"id": job_id})


def announce_checkpoint(connection: Connection, checkpoint: CheckpointRecord) -> None:
    """Tell of a checkpoint, inside the transaction that stores it."""
    project = connection.execute(select(jobs.c.project_id).where(jobs.c.id == checkpoint.job_id)).scalar_one()
    told = {"id": checkpoint.job_id, "checkpoint_id": checkpoint.id, "step_number": checkpoint.step_number}
    announce(connection, project, CHECKPOINT_EVENT, told)


def announce(connection: Connection, project: str, event_type: str, data: Mapping[str, Any]) -> None:
    """Tell the webhooks of a project that listen to `event_type`; they all get the same event."""
    query = select(webhooks.c.id, webhooks.c.event_types).where(
        webhooks.c.project_id == project, webhooks.c.disabled_at.is_(None)
    )
    # Held, or one that is deleted meanwhile would take the change that is told of down with it.
    held = query.with_for_update(read=True, key_share=True)
    listening = [id for id, wanted in connection.execute(held) if not wanted or event_type in wanted]
    if listening:
        payload, now = payload_of(event_type, data), time.time()
        rows = [values_of(new_delivery(id, event_type, payload, now=now)) for id in listening]
        connection.execute(webhook_deliveries.insert(), rows)


def payload_of(event_type: str, data: Mapping[str, Any]) -> str:
    """The body to send: OpenAI's, `{id, object, created_at, type, data}`."""
    event = {
        "id": f"evt_{secrets.token_hex(12)}",
        "object": "event",
        "created_at": int(time.time()),
        "type": event_type,
        "data": dict(data),
    }
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False)


def new_delivery(webhook_id: str, event_type: str, payload: str, *, now: float) -> WebhookDeliveryRecord:
    """A message that is to be sent at once."""
    return WebhookDeliveryRecord(
        id=f"msg_{secrets.token_hex(12)}",
        webhook_id=webhook_id,
        event_type=event_type,
        payload=payload,
        status="waiting",
        created_at=now,
        next_try_at=now,
    )
