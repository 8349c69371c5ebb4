"""`Idempotency-Key`: a request that is sent again is not done again; its answer is repeated.

After https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07. Only answers that created
something are kept: a refused request changed nothing and may be sent again under its key. What a route creates takes
its id from the key (`TheChosenId`), so that a request whose service died half way, or that failed after it had created
something, creates nothing twice either.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from service.errors import AttuneError, InvalidRequest
from service.settings import Settings
from service.store.engine import DatabaseTrouble
from service.store.idempotency import IdempotencyRecord
from service.store.records import QuotaExceeded, TransitionRefused, UnknownId, new_id
from service.store.store import Store
from trainer.resolve import SpecError

log = logging.getLogger(__name__)

_PATIENCE_S = 60.0
"""After so long without a word of whoever works on it, a request counts as dead."""
_RETRY_AFTER_S = 1
_KEPT_HEADERS = ("content-type", "etag", "location")
_MAX_KEY = 255
_REFUSALS = (RequestValidationError, SpecError, QuotaExceeded, TransitionRefused, UnknownId)


class StillWorking(AttuneError):
    """The first request under this key has not been answered yet."""

    default_status = 409
    default_code = "idempotency_key_in_use"

    def headers(self) -> dict[str, str]:
        """Unlike other conflicts, time mends this one."""
        return {"x-should-retry": "true", "Retry-After": str(_RETRY_AFTER_S)}


class IdempotentRoute(APIRoute):
    """A route whose POSTs honour `Idempotency-Key`, but for forms, whose files are too large to be compared."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, asked once a key."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            is_form = request.headers.get("content-type", "").startswith("multipart/")
            if key is None or request.method != "POST" or is_form:
                return await handle(request)
            return await _once(request, key, handle)

        return handle_once


async def _declared(
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=_MAX_KEY,
            description="Send the same one again with a request that may have arrived: its answer is repeated.",
        ),
    ] = None,
) -> None:
    """Only describes the header."""


IDEMPOTENT = Depends(_declared)
"""For routes of `IdempotentRoute` that create something."""


class ChosenId:
    """The id of what a request creates."""

    def __init__(self, request: Request) -> None:
        self._seed: str | None = getattr(request.state, "idempotency_seed", None)

    @property
    def may_be_taken(self) -> bool:
        """Whether an earlier request may have created something of that id."""
        return self._seed is not None

    def new(self, prefix: str) -> str:
        """A fresh id, or the same one for the same request under the same `Idempotency-Key`."""
        return new_id(prefix) if self._seed is None else f"{prefix}-{self._seed}"


async def _chosen_id(request: Request) -> ChosenId:
    return ChosenId(request)


TheChosenId = Annotated[ChosenId, Depends(_chosen_id)]


async def _once(request: Request, key: str, handle: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    store: Store = request.app.state.store
    settings: Settings = request.app.state.settings
    _check(key)
    fingerprint = _fingerprint(request, await request.body())
    record, is_ours = await asyncio.to_thread(
        store.idempotency.claim,
        key,
        project=request.state.caller.project_id,
        fingerprint=fingerprint,
        lifetime_s=settings.idempotency_lifetime_s,
        patience_s=_PATIENCE_S,
    )
    if not is_ours:
        return _repeat(record, fingerprint)
    request.state.idempotency_seed = _seed(record)
    done = asyncio.Event()
    holding = asyncio.create_task(_hold(store, record, until=done))
    try:
        response = await handle(request)
    except BaseException as error:
        done.set()
        await _give_back(store, await holding, is_new=record.is_first and _is_refusal(error))
        raise
    done.set()
    held = await holding
    if response.status_code < 300:
        await _keep(store, held, response)
    else:
        await _give_back(store, held, is_new=record.is_first and response.status_code < 500)
    return response


async def _hold(store: Store, record: IdempotencyRecord, *, until: asyncio.Event) -> IdempotencyRecord:
    """Tell the other replicas every now and then that a request is worked on; the record as it is at last."""
    while True:
        try:
            await asyncio.wait_for(until.wait(), _PATIENCE_S / 4)
        except TimeoutError:
            try:
                record = await asyncio.to_thread(store.idempotency.renew, record)
            except DatabaseTrouble:
                log.exception("cannot hold the Idempotency-Key %r; trying again", record.key)
        else:
            return record


def _is_refusal(error: BaseException) -> bool:
    """Whether a request was refused, so that it has surely changed nothing."""
    if isinstance(error, AttuneError):
        return error.status < 500
    if isinstance(error, HTTPException):
        return error.status_code < 500
    return isinstance(error, _REFUSALS)


async def _give_back(store: Store, record: IdempotencyRecord, *, is_new: bool) -> None:
    """Free the key of a request without an answer to keep. `is_new`: it was refused, and is no repetition. Any other
    may have created something: whoever sends it again gets the same seed."""
    keys = store.idempotency
    await asyncio.to_thread(keys.forget if is_new else keys.let_go, record)


async def _keep(store: Store, record: IdempotencyRecord, response: Response) -> None:
    kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    body = bytes(response.body).decode()
    await asyncio.to_thread(store.idempotency.answer, record, status=response.status_code, headers=kept, body=body)


def _repeat(record: IdempotencyRecord, fingerprint: str) -> Response:
    if record.fingerprint != fingerprint:
        message = f"the Idempotency-Key {record.key!r} was used for another request; take a new one"
        raise InvalidRequest(message, param="Idempotency-Key", code="idempotency_key_reused", status=422)
    if record.status is None:
        message = f"the first request with the Idempotency-Key {record.key!r} is still being worked on"
        raise StillWorking(message, param="Idempotency-Key")
    headers = {**(record.headers or {}), "Idempotent-Replayed": "true"}
    return Response(record.body, status_code=record.status, headers=headers)


def _check(key: str) -> None:
    if not 1 <= len(key) <= _MAX_KEY or not key.isprintable():
        message = f"an Idempotency-Key has 1 to {_MAX_KEY} printable characters, this one has {len(key)}"
        raise InvalidRequest(message, param="Idempotency-Key", status=422, code="invalid_field")


def _fingerprint(request: Request, body: bytes) -> str:
    digest = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    digest.update(body)
    return digest.hexdigest()


def _seed(record: IdempotencyRecord) -> str:
    named = f"{record.project_id}\n{record.key}\n{record.created_at:.3f}"
    return hashlib.sha256(named.encode()).hexdigest()[:24]
