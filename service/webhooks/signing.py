"""Secrets and signatures of webhooks, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

SECRET_PREFIX = "whsec_"
_NUM_BYTES = 32
_MOST_SECRETS = 5
"""Signatures in one header; each rotation adds one until the oldest expires."""


def new_secret() -> str:
    """A fresh secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_NUM_BYTES)).decode()


def rotated(old: Sequence[Mapping[str, Any]], *, now: float, overlap_s: float) -> list[dict[str, Any]]:
    """A new secret before the old ones, of which those in force sign for `overlap_s` more seconds at most."""
    kept = [
        {**entry, "expires_at": min(now + overlap_s, entry["expires_at"] or float("inf"))}
        for entry in old
        if overlap_s > 0 and (entry["expires_at"] is None or entry["expires_at"] > now)
    ]
    return [{"secret": new_secret(), "expires_at": None}, *kept][:_MOST_SECRETS]


def in_force(entries: Sequence[Mapping[str, Any]], *, now: float) -> list[str]:
    """The secrets that sign now, the newest first."""
    return [entry["secret"] for entry in entries if entry["expires_at"] is None or entry["expires_at"] > now]


def headers(secrets_in_force: Sequence[str], *, id: str, payload: bytes, now: float) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and `webhook-signature` of a message."""
    signed = b".".join((id.encode(), str(int(now)).encode(), payload))
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in secrets_in_force),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
