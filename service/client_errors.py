"""What the client raises: one class a kind of answer, each carrying the service's error envelope.

ApiError
  ConnectionFailed    nobody answers
  BadRequest          400, 413, 422: the request is at fault; with `problems` if a spec was
    BadKey            the key has not been copied right; nothing was sent
    Unauthenticated   401: no valid API key came with it
    Forbidden         403: the key is not allowed to do this
  NotFound            404
  Conflict            409
  TooManyRequests     429, with `retry_after_s`
  ServerError         500 and above; Unavailable is its 503
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The service did not do what was asked."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        problems: list[dict[str, Any]] | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status; None if there was no answer."""
        self.code = code
        """The service's word for it, such as `invalid_spec`."""
        self.param = param
        """The field at fault."""
        self.problems = problems or []
        """For a spec: all that is wrong with it, as `{field, message, value}`."""
        self.request_id = request_id
        """To be found in the service's log."""
        self.retry_after_s = retry_after_s
        """Seconds after which it is worth trying again, if the service said so."""


class ConnectionFailed(ApiError):
    """Nobody answers at this address, or the connection broke."""

    def __init__(self, base_url: str, reason: Exception) -> None:
        super().__init__(f"no connection to {base_url}: {reason}; is the service running (attune serve)?")


class BadRequest(ApiError):
    """The request is at fault."""


class BadKey(BadRequest):
    """The key or the project that is to be sent holds characters that cannot be."""


class Unauthenticated(BadRequest):
    """The service asks for an API key, and none or no valid one was sent."""


class Forbidden(BadRequest):
    """The key is not allowed to do this."""


class NotFound(ApiError):
    """The thing named in the request does not exist."""


class Conflict(ApiError):
    """The thing is in a state in which this cannot be done to it."""


class TooManyRequests(ApiError):
    """The service is busy."""


class ServerError(ApiError):
    """The service failed."""


class Unavailable(ServerError):
    """A part of the service does not answer right now."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooManyRequests,
    503: Unavailable,
}


def error_from_response(status: int, content: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error in an answer; an answer that is not from Attune, such as a proxy's, is quoted."""
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else BadRequest)
    envelope = _envelope(content)
    retry_after = headers.get("retry-after", "")
    return kind(
        envelope.get("message") or f"status {status}: {content[:200].decode(errors='replace')}",
        status=status,
        code=envelope.get("code"),
        param=envelope.get("param"),
        problems=envelope.get("problems"),
        request_id=headers.get("x-request-id"),
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )


def _envelope(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    envelope = body.get("error") if isinstance(body, dict) else None
    return envelope if isinstance(envelope, dict) else {}
