"""ASGI middleware that writes every change through the API, and every refused one, to the audit log.

A change is a request with a method other than GET, HEAD and OPTIONS that a route takes, but for questions to models.
Its action is the route's function, `create_job` as `job.create`; its target what the path names or, for something new,
the id in the answer. The record is stored before the caller gets the answer; a handler may store it together with what
it changes (`record_of_change`, `change_is_noted`). What is turned away at the door has no route yet, and goes by its
method and path.
"""

from __future__ import annotations

import json
import logging
import math
import time
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.redaction import redact
from service.security import QUESTIONS, READING
from service.store.records import AuditRecord
from service.store.store import Store

logger = logging.getLogger(__name__)

_STRANGER_EVERY_S = 60.0
_MOST_STRANGERS = 1024
_NOTED = "audit_is_noted"
_MOST_BYTES = 1 << 20  # a longer answer is no new thing's


class AuditTrail:
    """Goes inside the middleware that gives requests their ids."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._strangers = _Strangers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in READING or scope["path"] in QUESTIONS:
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._strangers)
        try:
            await self.app(scope, receive, answer.send)
        except Exception:
            await answer.note(500)
            raise


class _Strangers:
    """Refused requests without a valid key, by address: one a minute is noted, with the number of those before it, so
    that nobody can fill the database without having a key."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[float, int]] = {}

    def num_unnoted(self, scope: Scope) -> int | None:
        """How many went by since the last one that was noted; None if this one is only counted."""
        address = (scope.get("client") or ("", 0))[0]
        last, count = self._noted.pop(address, (-math.inf, 0))
        due = time.monotonic() > last + _STRANGER_EVERY_S
        self._noted[address] = (time.monotonic(), 0) if due else (last, count + 1)
        while len(self._noted) > _MOST_STRANGERS:
            del self._noted[next(iter(self._noted))]
        return count if due else None


class _Answer:
    """Holds the start of an answer back until its first part is there, whose id the record wants."""

    def __init__(self, scope: Scope, send: Send, strangers: _Strangers) -> None:
        self._scope = scope
        self._strangers = strangers
        self._send = send
        self._start: Message | None = None
        self._noted = False

    async def send(self, message: Message) -> None:
        """Pass a message on, the audit record first."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            await self.note(start["status"], message.get("body", b""))
            await self._send(start)
        await self._send(message)

    async def note(self, status: int, body: bytes = b"") -> None:
        """Store the record, once."""
        route = self._scope.get("route")
        turned_away = route is None and status in (401, 403)  # before a route was looked for
        if self._noted or status == 405 or (route is None and not turned_away):
            return
        if status < 400 and self._scope.get("state", {}).get(_NOTED):
            return
        self._noted = True
        num_unnoted = self._strangers.num_unnoted(self._scope) if status == 401 else 0
        if num_unnoted is None:
            return
        action = action_of(route.name) if route else f"{self._scope['method']} {self._scope['path']}"[:255]
        record = _record(self._scope, action, status, _read(body), num_unnoted=num_unnoted)
        store: Store = self._scope["app"].state.store
        try:
            await run_in_threadpool(store.audit.append, record)
        except Exception:
            # What is done is done; that it is in no audit log must be found by whoever reads this one.
            logger.exception("not in the audit log: %s", record)


def record_of_change(request: Request, *, target: str) -> AuditRecord:
    """The record of what a handler is about to do to `target`, to be stored in the same transaction."""
    return _record(request.scope, action_of(request.scope["route"].name), 200, {"id": target}, num_unnoted=0)


def change_is_noted(request: Request) -> None:
    """The change has been made, and its record stored: the answer needs none."""
    request.scope.setdefault("state", {})[_NOTED] = True


def _record(scope: Scope, action: str, status: int, body: dict[str, Any], *, num_unnoted: int) -> AuditRecord:
    state, outcome = scope.get("state", {}), _outcome(status)
    caller = state.get("caller")
    named = scope.get("path_params") or {}
    error = body.get("error") if outcome != "ok" else None
    message = error.get("message") if isinstance(error, dict) else None
    target = state.get("audit_target") or ", ".join(map(str, named.values())) or body.get("id")
    return AuditRecord(
        at=time.time(),
        actor=caller.actor if caller else "unknown",
        action=action,
        outcome=outcome,
        project_id=caller.project_id if caller else None,
        target=target[:255] if isinstance(target, str) else None,
        request_id=state.get("request_id"),
        detail={"status": status}
        | ({"message": redact(str(message))[:500]} if message else {})
        | ({"unnoted_before": num_unnoted} if num_unnoted else {}),
    )


def action_of(name: str) -> str:
    """`job.create` of the function `create_job`."""
    verb, _, noun = name.partition("_")
    return f"{noun}.{verb}" if noun else verb


def _outcome(status: int) -> Literal["ok", "refused", "failed"]:
    if status < 400:
        return "ok"
    return "refused" if status < 500 else "failed"


def _read(body: bytes) -> dict[str, Any]:
    if not body.startswith(b"{") or len(body) > _MOST_BYTES:
        return {}
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
