"""Who calls, and what they may do: API keys, each for one project and one role.

A key is `ak-` and 40 random characters; only its SHA-256 is stored, which is enough for something that cannot be
guessed. Where no key has ever been made, a service that only this machine can reach takes everybody for the
administrator of the project `default`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

from service.errors import Forbidden, Unauthenticated
from service.store.records import DEFAULT_PROJECT, ApiKeyRecord, Role, new_id
from service.store.store import Store

KEY_PREFIX = "ak-"
READING = frozenset({"GET", "HEAD", "OPTIONS"})
QUESTIONS = frozenset({"/v1/zero-shot", "/v1/classify", "/v1/embeddings", "/v1/fine_tuning/estimate"})
"""Paths to which a POST changes nothing, so that viewers may ask."""
_RANK = {Role.VIEWER: 0, Role.MEMBER: 1, Role.ADMIN: 2}


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    project_id: str
    """The project that they act in; nothing outside it exists for them."""
    role: Role
    key_id: str | None = None
    """None where no key is asked for."""
    key_project: str | None = None
    """The key's own project, where an operator acts in another one."""

    @property
    def is_operator(self) -> bool:
        """Whether they look after all projects."""
        return self.role is Role.ADMIN and (self.key_project or self.project_id) == DEFAULT_PROJECT

    @property
    def actor(self) -> str:
        """Who they are in the audit log."""
        return self.key_id or "anonymous"

    def require(self, role: Role) -> None:
        """Refuse a caller of a lower role.

        Raises:
            Forbidden: naming both roles.
        """
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"this needs the role {role.value!r}; the key's role is {self.role.value!r}")

    def require_operator(self) -> None:
        """Refuse a caller who only looks after a project of their own.

        Raises:
            Forbidden: the key is no administrator's of the project `default`.
        """
        if not self.is_operator:
            raise Forbidden(f"this needs an administrator's key of the project {DEFAULT_PROJECT!r}, an operator's")


ANYBODY = Caller(DEFAULT_PROJECT, Role.ADMIN)
"""A caller on a machine without keys."""


def make_key(*, project: str, name: str, role: Role, lifetime_s: float | None = None) -> tuple[str, ApiKeyRecord]:
    """A new key, which is never seen again, and the record to store.

    Args:
        lifetime_s: seconds until it expires; None: it does not.
    """
    key, now = KEY_PREFIX + secrets.token_urlsafe(30), time.time()
    record = ApiKeyRecord(
        id=new_id("key"),
        project_id=project,
        name=name,
        role=role,
        hash=hash_key(key),
        hint=f"{key[:6]}...{key[-4:]}",
        created_at=now,
        expires_at=None if lifetime_s is None else now + lifetime_s,
    )
    return key, record


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def identify(store: Store, *, authorization: str | None, project: str | None = None) -> Caller:
    """Who sent a request with these headers.

    Args:
        authorization: `Authorization`, as `Bearer KEY`.
        project: `OpenAI-Project`: where an operator wants to act; others may only name their own.

    Raises:
        Unauthenticated: keys are in use, and there is none or no valid one.
        Forbidden: the key is for another project.
    """
    key = _bearer(authorization)
    record = None if key is None else store.keys.find(hash_key(key))
    if record is None:
        if store.keys.any():
            raise Unauthenticated(
                "no API key was given; send it as `Authorization: Bearer KEY`"
                if key is None
                else "this API key is not valid: unknown, expired or revoked"
            )
        caller = ANYBODY
    else:
        caller = Caller(record.project_id, record.role, record.id)
    if project is None or project == caller.project_id:
        return caller
    if not caller.is_operator or store.projects.get(project) is None:
        raise Forbidden(f"this key is not for the project {project!r}")
    return Caller(project, caller.role, caller.key_id, key_project=caller.project_id)


def is_remembered(store: Store, *, authorization: str | None) -> bool:
    """Whether `identify` will know this key without asking the database."""
    key = _bearer(authorization)
    return key is not None and store.keys.remembered(hash_key(key)) is not None


def _bearer(authorization: str | None) -> str | None:
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
