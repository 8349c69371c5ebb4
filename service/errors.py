"""What can go wrong for a caller: one exception tree, and the handlers that turn it into OpenAI's envelope.

    AttuneError                  500  internal_error
      Unauthenticated            401  invalid_api_key     with `WWW-Authenticate`
      Forbidden                  403  forbidden
      NotFound                   404  not_found
      InvalidRequest             400  invalid_request     (or 422: well-formed JSON of the wrong shape)
        InvalidSpec              400  invalid_spec        with a list of `problems`
      Conflict                   409  conflict            with `x-should-retry: false`
      PayloadTooLarge            413  payload_too_large
      TooManyRequests            429  too_many_requests   with `Retry-After`
      Unavailable                503  unavailable         with `Retry-After`, if known

Each answer is `{"error": {"message", "type", "param", "code"}}`. Business code raises; it never builds a response.
"""

from __future__ import annotations

import json
import logging
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from service.redaction import redact_values
from service.store.records import AlreadyExists, QuotaExceeded, StoreError, TransitionRefused, UnknownId
from trainer.resolve import SpecError, SpecProblem

logger = logging.getLogger(__name__)

_QUOTA_RETRY_S = 60.0


class AttuneError(Exception):
    """Something failed on this side; callers can only report it."""

    default_status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.status = status or self.default_status

    @property
    def type(self) -> str:
        """OpenAI's coarse word for the kind of error."""
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def headers(self) -> dict[str, str]:
        """Response headers that belong to this error."""
        return {}

    def envelope(self) -> dict[str, Any]:
        """The response body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class Unauthenticated(AttuneError):
    """The request carries no API key, or none that is valid."""

    default_status = 401
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """How to say who one is."""
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(AttuneError):
    """The caller may not do this."""

    default_status = 403
    default_code = "forbidden"


class NotFound(AttuneError):
    """The thing named in the request does not exist."""

    default_status = 404
    default_code = "not_found"


class InvalidRequest(AttuneError):
    """The request cannot be met as it stands: 400, or 422 where well-formed JSON has the wrong shape."""

    default_status = 400
    default_code = "invalid_request"


class InvalidSpec(InvalidRequest):
    """The submitted spec cannot be made; `problems` says why, one by one."""

    default_code = "invalid_spec"

    def __init__(self, problems: Sequence[SpecProblem]) -> None:
        super().__init__(str(SpecError(problems)), param=problems[0].field or None)
        self.problems = list(problems)

    def envelope(self) -> dict[str, Any]:
        """The response body, with the list of problems inside the error."""
        body = super().envelope()
        body["error"]["problems"] = [problem.model_dump(mode="json") for problem in self.problems]
        return body


class Conflict(AttuneError):
    """The thing is in a state in which this cannot be done to it."""

    default_status = 409
    default_code = "conflict"

    def headers(self) -> dict[str, str]:
        """Keep the OpenAI client, which repeats a 409 by itself, from trying again."""
        return {"x-should-retry": "false"}


class PayloadTooLarge(AttuneError):
    """The request, or an image in it, is larger than the service takes."""

    default_status = 413
    default_code = "payload_too_large"


class TooManyRequests(AttuneError):
    """The queue is full; worth trying again after `retry_after_s`."""

    default_status = 429
    default_code = "too_many_requests"

    def __init__(
        self, message: str, *, retry_after_s: float, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's word for overload."""
        return "rate_limit_error"

    def headers(self) -> dict[str, str]:
        """When to try again, in whole seconds."""
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class Unavailable(AttuneError):
    """A part of the service does not answer right now."""

    default_status = 503
    default_code = "unavailable"

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """When to try again, in whole seconds, if that is known."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class _AsciiJson(JSONResponse):
    """JSON that can also quote what is no Unicode text, such as half of a surrogate pair from a caller's JSON."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_response(error: AttuneError) -> JSONResponse:
    """The answer to a caller that ran into `error`."""
    return _AsciiJson(redact_values(error.envelope()), status_code=error.status, headers=error.headers())


def install_error_handlers(app: FastAPI) -> None:
    """Give every error that leaves a handler of `app` the same envelope."""
    app.add_exception_handler(AttuneError, _answer_attune_error)
    app.add_exception_handler(SpecError, _answer_spec_error)
    app.add_exception_handler(StoreError, _answer_store_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_surprise)


async def _answer_attune_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AttuneError)
    return error_response(error)


async def _answer_spec_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SpecError)
    return error_response(InvalidSpec(error.problems))


async def _answer_store_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, UnknownId):
        named_by = "after" if request.query_params.get("after") == error.id else None
        return error_response(NotFound(str(error), param=named_by))
    if isinstance(error, QuotaExceeded):
        return error_response(TooManyRequests(str(error), code="quota_exceeded", retry_after_s=_QUOTA_RETRY_S))
    if isinstance(error, TransitionRefused | AlreadyExists):
        return error_response(Conflict(str(error)))
    return await _answer_surprise(request, error)


async def _answer_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(from_validation_errors(error.errors()))


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404 and message == "Not Found":
        message = f"there is no {request.method} {request.url.path}; see /docs"
    code = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}.get(error.status_code)
    answer = error_response(AttuneError(message, status=error.status_code, code=code or "invalid_request"))
    answer.headers.update(error.headers or {})
    if error.status_code == 405:
        described = await run_in_threadpool(_described_methods, request)
        if described:
            answer.headers["Allow"] = ", ".join(described)
    return answer


def _described_methods(request: Request) -> list[str]:
    """Methods of all operations at this path, or at the most particular of several that fit; a route by itself only
    knows its own."""
    paths: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    fitting = [path for path in paths if compile_path(path)[0].match(request.url.path)]
    return sorted(method.upper() for method in paths[min(fitting, key=lambda path: path.count("{"))]) if fitting else []


async def _answer_surprise(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    request_id = getattr(request.state, "request_id", None)
    answer = error_response(AttuneError(f"the service failed on this request; its log has the details ({request_id})"))
    if request_id:
        answer.headers["x-request-id"] = request_id  # this answer is made outside the request-id middleware
    return answer


_MOST_PROBLEMS = 20
"""Problems of a request that are told one by one."""


def from_validation_errors(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """One InvalidRequest from pydantic's list: 400 for a body that is no JSON, otherwise 422."""
    if any(error["type"] == "json_invalid" for error in errors):
        reason = errors[0].get("ctx", {}).get("error", "syntax error")
        return InvalidRequest(f"the request body is not valid JSON: {reason}", code="invalid_json")
    sentences = [f"{field_path(error['loc'])[:200]}: {_sentence(error)}" for error in errors[:_MOST_PROBLEMS]]
    if len(errors) > _MOST_PROBLEMS:
        sentences.append(f"and {len(errors) - _MOST_PROBLEMS} more")
    return InvalidRequest("\n".join(sentences), param=field_path(errors[0]["loc"]), code="invalid_field", status=422)


def field_path(loc: Sequence[str | int]) -> str:
    """Dotted path of a field, without FastAPI's leading `body`, `query` or `path`."""
    parts = [str(part) for part in loc]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] in ("body", "query", "path", "header") else parts)


def _sentence(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return "this field is required"
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if isinstance(error["input"], bytes):
        return "send JSON, with the header `Content-Type: application/json`"
    if error["type"] == "value_error":
        return message
    return f"{message}, got {reprlib.repr(error['input'])}"
