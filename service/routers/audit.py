"""The audit log, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.dependencies import After, TheAdmin, TheStore
from service.schemas.audit import AuditEntry
from service.schemas.base import Page

router = APIRouter(prefix="/v1/audit", tags=["administration"])


@router.get("")
def list_audit_entries(
    store: TheStore,
    caller: TheAdmin,
    action: Annotated[str | None, Query(description="Only this action, such as `job.create`.")] = None,
    actor: Annotated[str | None, Query(description="Only what this key did.")] = None,
    since: Annotated[float, Query(ge=0, le=1e11, description="Only from this time on, in Unix seconds.")] = 0.0,
    everywhere: Annotated[bool, Query(description="All projects, and what is known of none; for operators.")] = False,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[AuditEntry]:
    """Changes and refused attempts at them in the caller's project, newest first."""
    if everywhere:
        caller.require_operator()
    records, has_more = store.audit.list(
        project=None if everywhere else caller.project_id,
        action=action,
        actor=actor,
        since=since,
        after=after,
        limit=limit,
    )
    return Page[AuditEntry](data=[AuditEntry.from_record(record) for record in records], has_more=has_more)
