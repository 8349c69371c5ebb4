"""Takes secrets out of text before it is logged, stored with a job or sent: API keys, passwords in URLs, signatures.

What looks like a secret goes, and so does the value of every environment variable whose name says that it is one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[hidden]"
MIN_SECRET_LENGTH = 8
"""A shorter value of a variable would turn up in innocent text."""

# What a longer name ends with; a pattern for its beginning would be slow on long text.
_SECRET_WORD = (
    r"(?:password|passwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|credentials?|private[_-]?key|secrets"
    r"|secret[_-]key|account[_-]?key)"
)
_PATTERNS = (
    # Attune's own keys and webhook secrets, and those of the services that data and models come from.
    (re.compile(r"\bak-[A-Za-z0-9_-]{20,}"), HIDDEN),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]{8,}"), HIDDEN),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\b(Bearer)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?\w+)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # scheme://user:password@host
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s/:@'\"]{0,200}):[^\s/@'\"]{1,500}@"), rf"\1:{HIDDEN}@"),
    # ?X-Amz-Signature=..., &sig=...
    (
        re.compile(
            r"([?&](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig"
            rf"|key|code|{_SECRET_WORD})=)[^&\s'\"<>]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # NAME=value, "name": "value", name: value
    (
        re.compile(
            rf"((?<![A-Za-z0-9]){_SECRET_WORD}['\"]?\s*[=:]\s*)(\"[^\"]{{4,}}\"|'[^']{{4,}}'|[^\s,;'\"\[\]{{}}&]{{6,}})",
            re.I,
        ),
        rf"\1{HIDDEN}",
    ),
)
_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")
_SECRET_VARIABLE = re.compile(
    r"(?:PASSWORD|PASSWD|SECRET|TOKEN(?!IZ)|CREDENTIALS?|(?:API|ACCESS|PRIVATE|ACCOUNT)_?KEY)", re.I
)
_SECRET_FIELD = re.compile(rf"(?:^|[_.-])(?:{_SECRET_WORD}|authorization)$", re.IGNORECASE)


def secrets_in(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of variables that are secrets by their names, the longest first."""
    found = {
        value
        for name, value in environment.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= MIN_SECRET_LENGTH and not value.startswith("/")
    }
    return tuple(sorted(found, key=len, reverse=True))


_OF_THIS_PROCESS = secrets_in(os.environ)


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return _SECRET_VARIABLE.search(name) is not None


def redact(text: str) -> str:
    """`text` without its secrets, and without what PostgreSQL or UTF-8 cannot hold (NUL, halves of surrogate pairs)."""
    text = _UNSTORABLE.sub("\ufffd", text)
    for secret in _OF_THIS_PROCESS:
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def redact_values(value: Any) -> Any:
    """The same of every text in JSON values; what stands under a secret's name goes whatever it looks like."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redact_field(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(inner) for inner in value]
    return value


def _redact_field(name: str, value: Any) -> Any:
    if isinstance(value, str) and value and _SECRET_FIELD.search(name):
        return HIDDEN
    return redact_values(value)
