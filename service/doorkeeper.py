"""Lets requests in: says who sends them, and turns away strangers, those in too great a hurry, and foreign web pages.

Where no key is asked for, a web page that somebody on this machine has open could send requests as well. Browsers
tell where such a request comes from (`Origin`, `Sec-Fetch-Site`) and which name they looked up (`Host`), so these are
checked there.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from service.errors import Forbidden, Unauthenticated
from service.rate_limits import RateLimits
from service.security import Caller, identify
from service.settings import Settings, is_loopback
from service.store.store import Store

SUBMISSIONS = frozenset({"/v1/fine_tuning/jobs", "/v1/fine_tuning/sweeps", "/v1/fine_tuning/estimate"})
"""Paths to which a POST starts a lot of work."""


class Doorkeeper:
    """One for each replica."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = RateLimits(
            requests_per_minute=settings.requests_per_minute, submissions_per_minute=settings.submissions_per_minute
        )

    def admit(self, store: Store, *, method: str, path: str, headers: Headers, address: str) -> Caller:
        """Who sends a request, if they may come in at all.

        Raises:
            Unauthenticated: keys are in use, and there is no valid one.
            Forbidden: the key is for another project, or a web page from elsewhere sent this.
            TooManyRequests: the key, or an address without a valid one, has sent too many.
        """
        try:
            caller = identify(
                store, authorization=headers.get("authorization"), project=headers.get("openai-project")
            )
        except Unauthenticated:
            self._limits.failed_keys.take(address)
            raise
        if caller.key_id is None:
            self._refuse_web_pages(headers)
            return caller
        self._limits.requests.take(caller.key_id)
        if method == "POST" and path.rstrip("/") in SUBMISSIONS:
            self._limits.submissions.take(caller.key_id)
        return caller

    def _refuse_web_pages(self, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin in self._settings.cors_origins:
            return
        if headers.get("sec-fetch-site") == "cross-site" or (origin and urlsplit(origin).netloc != host):
            raise Forbidden(f"a web page of {origin or 'another site'} may not call this service; see ATTUNE_CORS_ORIGINS")
        name = urlsplit(f"//{host}").hostname or ""
        if is_loopback(self._settings.host) and "." in name and not (is_loopback(name) or name.endswith(".localhost")):
            raise Forbidden(f"this service is not called {name!r}; without API keys it answers to this machine's names only")
