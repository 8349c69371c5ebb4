"""Records of the audit log as they are sent."""

from __future__ import annotations

from typing import Any, Literal

from service.schemas.base import Answer
from service.store.records import AuditRecord


class AuditEntry(Answer):
    """Something that somebody did or tried to do."""

    id: str
    """`audit-...`"""
    object: Literal["audit.entry"] = "audit.entry"
    """Always `audit.entry`."""
    at: float
    """Unix seconds."""
    project: str | None
    """The project that it was done in, if that is known."""
    actor: str
    """A key's id, `operator` for the command line, `anonymous` where no key is asked for, `unknown` without a valid
    one."""
    action: str
    """Such as `job.create`."""
    target: str | None
    """The id or name of what it was done to."""
    outcome: Literal["ok", "refused", "failed"]
    """`refused`: the caller was told no; `failed`: the service could not."""
    request_id: str | None
    """`X-Request-ID` of the answer."""
    detail: dict[str, Any] | None
    """The status, and the message of a refusal."""

    @classmethod
    def from_record(cls, record: AuditRecord) -> AuditEntry:
        """The record as it is sent."""
        given = {name: getattr(record, name) for name in cls.model_fields if name not in ("object", "project")}
        return cls(**given, project=record.project_id)
