"""ASGI middleware: request ids, a limit on request bodies, and metrics by route template."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import PayloadTooLarge, error_response
from service.metrics import Metrics
from service.security import READING

logger = logging.getLogger(__name__)

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
UNMATCHED = "unmatched"
FORM_BYTES = 1024 * 1024
"""What a multipart form may add to the file in it."""
JSON_BYTES = 4 * 1024 * 1024
"""Of a JSON body without images; what is wrong with it takes longer to tell than to send."""
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestIds:
    """Gives each request an id, the caller's own if it sent a sane one, and names it in `X-Request-ID`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with logs.about(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class SecurityHeaders:
    """Tells browsers to take answers for what they are called, and to keep, frame and pass on nothing of them."""

    ALWAYS: ClassVar = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    }
    OF_PAGES = (
        "default-src 'none'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'self' "
        "'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; font-src https://fonts.gstatic.com; "
        "img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; worker-src blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    """`/docs` and `/redoc` load their scripts from a content network."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.ALWAYS.items():
                    headers.setdefault(name, value)  # a route may know better how long its answer keeps
                if headers.get("content-type", "").startswith("text/html"):
                    headers["content-security-policy"] = self.OF_PAGES
            await send(message)

        await self.app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuses a request body of more than `max_bytes`: by its announced length, or as soon as more arrives."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, others: Mapping[str, int] = MappingProxyType({})) -> None:
        """`others`: limits of other paths, by a regular expression of the whole path."""
        self.app = app
        self.max_bytes = max_bytes
        self.others = [(re.compile(pattern), limit) for pattern, limit in others.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = next((limit for path, limit in self.others if path.fullmatch(scope["path"])), self.max_bytes)
        refusal = f"the request body is larger than {max_bytes} bytes, the limit of this service"
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            answer = error_response(PayloadTooLarge(refusal))
            answer.headers["connection"] = "close"
            await answer(scope, receive, send)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                # FastAPI calls any other exception here a bad request.
                raise HTTPException(413, refusal, headers={"connection": "close"})
            return message

        await self.app(scope, receive_limited, send)


class RequestMetrics:
    """Counts requests and times them until the answer begins, by the template of their route.

    Those that may change something, and those that failed here, are lines in the log, too; at level `debug` all are.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        answered = False

        async def send_counted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except Exception:
            if not answered:
                self._count(scope, 500, time.perf_counter() - began)
            raise

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # Paths and methods of strangers' choosing would make a time series each.
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        level = logging.DEBUG if method in READING else logging.INFO
        level = logging.WARNING if status >= 500 else level
        if logger.isEnabledFor(level):
            caller = scope.get("state", {}).get("caller")
            who = caller.actor if caller else "a stranger"
            logger.log(level, "%s %s: %d in %.0f ms, for %s", method, scope["path"], status, 1000 * seconds, who)
