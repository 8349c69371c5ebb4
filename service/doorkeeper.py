"""Lets requests in: says who sends them, and turns away strangers, those in too great a hurry, and foreign web pages.

It stands before the routes and before any body is read, so that a new route cannot be forgotten.

Where no key is asked for, a web page that somebody on this machine has open could send requests as well. Browsers
tell where such a request comes from (`Origin`, `Sec-Fetch-Site`) and which name they looked up (`Host`), so these are
checked there.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import AttuneError, Forbidden, Unauthenticated, error_response
from service.rate_limits import RateLimits
from service.security import Caller, identify, is_remembered
from service.settings import Settings, is_loopback
from service.store.store import Store

SUBMISSIONS = frozenset({"/v1/fine_tuning/jobs", "/v1/fine_tuning/sweeps", "/v1/fine_tuning/estimate"})
"""Paths to which a POST starts a lot of work."""


class Doorkeeper:
    """ASGI middleware: finds the caller of each request below /v1, for `request.state.caller`, or turns it away."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._limits = RateLimits(
            requests_per_minute=settings.requests_per_minute, submissions_per_minute=settings.submissions_per_minute
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and self._asks_for_keys(scope["path"]):
            try:
                if _is_remembered(scope):
                    self.admit(scope)  # at once: a thread would take longer to begin
                else:
                    await run_in_threadpool(self.admit, scope)
            except AttuneError as error:
                answer = error_response(error)
                answer.headers["connection"] = "close"  # nobody has read the body
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _asks_for_keys(self, path: str) -> bool:
        return path.startswith("/v1/") or (path == "/metrics" and not self._settings.metrics_are_open)

    def admit(self, scope: Scope) -> Caller:
        """Who sends a request, if they may come in at all; noted in `scope` as soon as it is known, for the logs.

        Raises:
            Unauthenticated: keys are in use, and there is no valid one.
            Forbidden: the key is for another project, or a web page from elsewhere sent this.
            TooManyRequests: the key, or an address without a valid one, has sent too many.
        """
        store: Store = scope["app"].state.store
        headers = Headers(scope=scope)
        try:
            caller = identify(store, authorization=headers.get("authorization"), project=headers.get("openai-project"))
        except Unauthenticated:
            self._limits.failed_keys.take(scope["client"][0] if scope.get("client") else "")
            raise
        scope.setdefault("state", {})["caller"] = caller
        if caller.key_id is None:
            self._refuse_web_pages(headers)
            return caller
        self._limits.requests.take(caller.key_id)
        if scope["method"] == "POST" and scope["path"] in SUBMISSIONS:
            self._limits.submissions.take(caller.key_id)
        return caller

    def _refuse_web_pages(self, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin in self._settings.cors_origins:
            return
        if headers.get("sec-fetch-site") == "cross-site" or (origin and urlsplit(origin).netloc != host):
            raise Forbidden(
                f"a web page of {origin or 'another site'} may not call this service; see ATTUNE_CORS_ORIGINS"
            )
        name = urlsplit(f"//{host}").hostname or ""
        if is_loopback(self._settings.host) and "." in name and not (is_loopback(name) or name.endswith(".localhost")):
            raise Forbidden(
                f"this service is not called {name!r}; without API keys it answers to this machine's names only"
            )


def _is_remembered(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if "openai-project" in headers:
        return False
    return is_remembered(scope["app"].state.store, authorization=headers.get("authorization"))
