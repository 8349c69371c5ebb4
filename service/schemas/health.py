"""What the health endpoints answer."""

from __future__ import annotations

from typing import Literal

from service.schemas.base import Answer


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"
    """Always `ok`."""


class PartState(Answer):
    """How one part of the service is."""

    ok: bool
    """Whether it does its work."""
    detail: str
    """What it says."""


class Readiness(Answer):
    """Whether the service can do its work, part by part."""

    status: Literal["ready", "not_ready"]
    """`ready` if every part is."""
    parts: dict[str, PartState]
    """By name: `store`, `jobs`, `engine` and `inference`."""
