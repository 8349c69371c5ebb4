"""API keys as they are asked for and sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Answer, Body
from service.store.records import ApiKeyRecord, Role


class KeyCreate(Body):
    """A new API key."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    """What it is for, such as the person or the program that will use it."""
    role: Annotated[Role, Field(strict=False)] = Role.MEMBER
    """`viewer` reads and asks models, `member` also submits and changes, `admin` also manages keys."""
    expires_in_s: Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)] | None = None
    """Seconds until it expires; None: it does not."""


class KeyRotate(Body):
    """How a key is replaced."""

    overlap_s: Annotated[float, Field(ge=0, le=1e8, allow_inf_nan=False)] = 3600.0
    """Seconds for which the old key still works."""


class Key(Answer):
    """An API key, without the key."""

    id: str
    """`key-...`"""
    object: Literal["api_key"] = "api_key"
    """Always `api_key`."""
    project: str
    """The project that it is for."""
    name: str
    """What it is for."""
    role: Role
    """What it may do."""
    hint: str
    """Its first and last characters."""
    created_at: int
    """Unix seconds."""
    expires_at: int | None
    """When it ends, or None."""
    revoked_at: int | None
    """When it was ended, or None."""
    last_used_at: int | None
    """When it was last used, to the minute, or None."""

    @classmethod
    def from_record(cls, record: ApiKeyRecord) -> Key:
        """The key as it is sent."""
        return cls(**_fields(record))


class NewKey(Key):
    """A key that was just made."""

    key: str
    """The key itself, which is shown this once: only a hash of it is kept."""
    replaces: str | None = None
    """Id of the key that it takes the place of."""

    @classmethod
    def of(cls, key: str, record: ApiKeyRecord, *, replaces: str | None = None) -> NewKey:
        """The new key as it is sent."""
        return cls(**_fields(record), key=key, replaces=replaces)


def _fields(record: ApiKeyRecord) -> dict[str, object]:
    def seconds(time: float | None) -> int | None:
        return None if time is None else int(time)

    return {
        "id": record.id,
        "project": record.project_id,
        "name": record.name,
        "role": record.role,
        "hint": record.hint,
        "created_at": int(record.created_at),
        "expires_at": seconds(record.expires_at),
        "revoked_at": seconds(record.revoked_at),
        "last_used_at": seconds(record.last_used_at),
    }
