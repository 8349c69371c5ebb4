"""The client's part for webhooks: who is told when something happens, and what became of each message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from service.client import AttuneClient, Json


class Webhooks:
    """Webhooks of one project: `AttuneClient.webhooks`."""

    def __init__(self, client: AttuneClient) -> None:
        self._client = client

    def create(self, url: str, *, event_types: Sequence[str] = ()) -> Json:
        """Register a URL to be told of `event_types`, or of all. The answer holds the `secret`, this once.

        Raises:
            BadRequest: nothing is sent to that URL, or there is no such event.
            Conflict: there are as many as a project may have.
        """
        return self._client.call("POST", "/v1/webhooks", json={"url": url, "event_types": list(event_types)})

    def page(self, *, after: str | None = None, limit: int = 20) -> tuple[list[Json], bool]:
        """A page of webhooks, newest first, and whether there are more."""
        return self._page("/v1/webhooks", after=after, limit=limit)

    def change(self, webhook_id: str, **changes: Any) -> Json:
        """Change `url`, `event_types` or `enabled`. Returns the webhook.

        Raises:
            NotFound: there is no such webhook.
        """
        return self._client.call("PATCH", _path(webhook_id), json=changes)

    def rotate_secret(self, webhook_id: str, *, overlap_s: float) -> Json:
        """Make a new secret, which the answer holds this once; the old one signs too for `overlap_s` seconds."""
        return self._client.call("POST", f"{_path(webhook_id)}/rotate_secret", json={"overlap_s": overlap_s})

    def delete(self, webhook_id: str) -> Json:
        """Delete a webhook with its messages.

        Raises:
            NotFound: there is no such webhook.
        """
        return self._client.call("DELETE", _path(webhook_id))

    def ping(self, webhook_id: str) -> Json:
        """Send a test message, once. Returns its delivery.

        Raises:
            Conflict: the webhook is disabled. So below.
        """
        return self._client.call("POST", f"{_path(webhook_id)}/ping")

    def deliveries(
        self, webhook_id: str, *, status: str | None = None, after: str | None = None, limit: int = 20
    ) -> tuple[list[Json], bool]:
        """A page of a webhook's messages, newest first, and whether there are more."""
        return self._page(f"{_path(webhook_id)}/deliveries", status=status, after=after, limit=limit)

    def redeliver(self, webhook_id: str, delivery_id: str) -> Json:
        """Send one message again, under its old id. Returns its delivery."""
        return self._client.call("POST", f"{_path(webhook_id)}/deliveries/{quote(delivery_id)}/redeliver")

    def replay(self, webhook_id: str, *, since: float, delivered_too: bool = False) -> Json:
        """Send all messages again that have failed since the Unix time `since`, or all there were."""
        body = {"since": since, "status": "all" if delivered_too else "failed"}
        return self._client.call("POST", f"{_path(webhook_id)}/replay", json=body)

    def _page(self, path: str, **params: Any) -> tuple[list[Json], bool]:
        given = {name: value for name, value in params.items() if value is not None}
        page = self._client.call("GET", path, params=given)
        return page["data"], page["has_more"]


def _path(webhook_id: str) -> str:
    return f"/v1/webhooks/{quote(webhook_id)}"
