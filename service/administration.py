"""Keys and projects: what their administrators do, over REST and on the command line alike."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, fields
from typing import Any

from service.errors import Conflict, InvalidRequest, NotFound
from service.security import make_key
from service.store.records import ApiKeyRecord, ProjectRecord, Role
from service.store.store import Store

PROJECT_ID = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""It names a folder, too."""
DEFAULT_OVERLAP_S = 3600.0
MAX_PRIORITY = 100


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """A project's share and limits; None takes a limit away."""

    weight: float = 1.0
    max_devices: int | None = None
    max_running_jobs: int | None = None
    max_queued_jobs: int | None = None
    max_priority: int = MAX_PRIORITY
    max_disk_bytes: int | None = None


QUOTAS = tuple(field.name for field in fields(Quotas))


def create_key(
    store: Store, *, project: str, name: str, role: Role, lifetime_s: float | None = None
) -> tuple[str, ApiKeyRecord]:
    """A new key, which cannot be read again, and its record.

    Raises:
        NotFound: there is no such project.
        InvalidRequest: the name is empty or too long, or the lifetime no positive number.
    """
    find_project(store, project)
    if not 1 <= len(name) <= 255:
        raise InvalidRequest(f"a key's name has 1 to 255 characters, got {len(name)}", param="name")
    if lifetime_s is not None and lifetime_s <= 0:
        raise InvalidRequest(f"a lifetime is more than 0 s, got {lifetime_s:g}", param="expires_in_s")
    key, record = make_key(project=project, name=name, role=role, lifetime_s=lifetime_s)
    return key, store.keys.create(record)


def find_key(store: Store, id: str, *, project: str | None) -> ApiKeyRecord:
    """The key of this id in a project, or (None) in any.

    Raises:
        NotFound: there is none.
    """
    record = store.keys.get(id)
    if record is None or project not in (None, record.project_id):
        raise NotFound(f"there is no API key {id!r}", param="id")
    return record


def rotate_key(
    store: Store, id: str, *, project: str | None, overlap_s: float = DEFAULT_OVERLAP_S
) -> tuple[str, ApiKeyRecord, ApiKeyRecord]:
    """A successor with the same project, name, role and length of life; the old key lives on for `overlap_s` seconds.

    Returns the new key, its record, and the old one's.

    Raises:
        NotFound: there is no such key.
        Conflict: it has ended already; a successor would bring it back to life.
    """
    old = find_key(store, id, project=project)
    now = time.time()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise Conflict(f"the API key {id!r} has ended; create a new one")
    lifetime_s = None if old.expires_at is None else old.expires_at - old.created_at
    key, record = make_key(project=old.project_id, name=old.name, role=old.role, lifetime_s=lifetime_s)
    store.keys.create(record)
    return key, record, store.keys.end(id, at=now + max(0.0, overlap_s))


def revoke_key(store: Store, id: str, *, project: str | None) -> ApiKeyRecord:
    """End a key at once.

    Raises:
        NotFound: there is no such key.
    """
    find_key(store, id, project=project)
    return store.keys.end(id, at=time.time())


def find_project(store: Store, id: str) -> ProjectRecord:
    """The project.

    Raises:
        NotFound: there is none of this id.
    """
    record = store.projects.get(id)
    if record is None:
        raise NotFound(f"there is no project {id!r}", param="project")
    return record


def create_project(store: Store, *, id: str, name: str | None = None, quotas: Quotas | None = None) -> ProjectRecord:
    """A new project; without a name it is called by its id.

    Raises:
        InvalidRequest: the id or a quota cannot be.
        AlreadyExists: the id or the name is taken.
    """
    if not re.fullmatch(PROJECT_ID, id):
        message = f"a project's id is up to 63 small letters, digits and '-', got {id!r}"
        raise InvalidRequest(message, param="id")
    given = vars(quotas or Quotas())
    _check(given)
    return store.projects.create(ProjectRecord(id=id, name=name or id, created_at=time.time(), **given))


def set_project(store: Store, id: str, **changes: Any) -> ProjectRecord:
    """Change a project's `name`, or its quotas by the names in `QUOTAS`.

    Raises:
        NotFound: there is no such project.
        InvalidRequest: a value cannot be, or nothing is to be changed.
    """
    find_project(store, id)
    if not changes:
        raise InvalidRequest(f"nothing to change: give a name or one of {', '.join(QUOTAS)}")
    _check(changes)
    return store.projects.update(id, **changes)


def _check(quotas: dict[str, Any]) -> None:
    if not 0 < quotas.get("weight", 1.0) < float("inf"):
        raise InvalidRequest(f"weight is more than 0, got {quotas['weight']}", param="weight")
    if not 0 <= quotas.get("max_priority", 0) <= MAX_PRIORITY:
        message = f"max_priority is 0 to {MAX_PRIORITY}, got {quotas['max_priority']}"
        raise InvalidRequest(message, param="max_priority")
    for name in ("max_devices", "max_running_jobs", "max_queued_jobs", "max_disk_bytes"):
        value = quotas.get(name)
        if value is not None and value < 0:
            raise InvalidRequest(f"{name} is 0 or more, got {value}", param=name)
