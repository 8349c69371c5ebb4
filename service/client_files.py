"""The client's part for files: they are sent in parts, of which each is sent again until it has arrived."""

from __future__ import annotations

import hashlib
import mimetypes
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from service.client_errors import ConnectionFailed, ServerError

if TYPE_CHECKING:
    from service.client import AttuneClient, Json

PART_BYTES = 16 * 1024 * 1024
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Before each further try to send a part."""
_COMPLETE_S = 3600.0
"""The parts of a large file take their time to be put together, and an archive to be unpacked."""


class ChangedFile(Exception):
    """The file to be sent is not the one that was announced."""


@dataclass(frozen=True)
class _Part:
    data: bytes
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> _Part:
        return cls(data, hashlib.sha256(data).hexdigest())


class Files:
    """Uploaded files of one service: `AttuneClient.files`."""

    def __init__(self, client: AttuneClient) -> None:
        self._client = client

    def page(
        self, *, purpose: str | None = None, after: str | None = None, limit: int = 100
    ) -> tuple[list[Json], bool]:
        """A page of files, newest first, and whether there are more."""
        params = {"purpose": purpose, "after": after, "limit": limit}
        page = self._client.call(
            "GET", "/v1/files", params={name: value for name, value in params.items() if value is not None}
        )
        return page["data"], page["has_more"]

    def get(self, file_id: str) -> Json:
        """One file.

        Raises:
            NotFound: there is no such file.
        """
        return self._client.call("GET", f"/v1/files/{quote(file_id)}")

    def delete(self, file_id: str) -> Json:
        """Remove a file.

        Raises:
            NotFound: there is no such file.
            Conflict: a job needs it.
        """
        return self._client.call("DELETE", f"/v1/files/{quote(file_id)}")

    def begin(self, path: Path, *, purpose: str = "fine-tune", lifetime_s: int | None = None) -> Json:
        """Announce a file. Returns the upload, for `send`.

        Args:
            lifetime_s: seconds, an hour to thirty days, after which the service removes the file; None: never.

        Raises:
            BadRequest: the service takes no such file.
        """
        body: dict[str, Any] = {
            "bytes": path.stat().st_size,
            "filename": path.name,
            "mime_type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            "purpose": purpose,
        }
        if lifetime_s is not None:
            body["expires_after"] = {"anchor": "created_at", "seconds": lifetime_s}
        return self._client.call("POST", "/v1/uploads", json=body)

    def upload(self, upload_id: str) -> Json:
        """An upload that was begun.

        Raises:
            NotFound: there is no such upload.
        """
        return self._client.call("GET", f"/v1/uploads/{quote(upload_id)}")

    def send(self, path: Path, upload_id: str, *, on_part: Callable[[int], None] = lambda sent: None) -> Json:
        """Send what has not arrived yet of an announced file, and have it put together. Returns the file.

        May be called again for the same upload after it was interrupted: parts are known by their SHA-256.

        Args:
            on_part: is told the number of bytes that have arrived, after each part.

        Raises:
            ChangedFile: the file is not as long as was announced.
            Conflict: the upload has ended.
            ConnectionFailed: the service could not be reached for some time.
        """
        announced, size = self.upload(upload_id), path.stat().st_size
        if announced["status"] == "completed":
            return dict(announced["file"])
        if announced["bytes"] != size:
            raise ChangedFile(f"{path} has {size} bytes, and upload {upload_id} is for {announced['bytes']}")
        arrived, whole = self._arrived(upload_id), hashlib.md5(usedforsecurity=False)
        ids: list[str] = []
        sent = 0
        for part in _parts(path):
            whole.update(part.data)
            ids.append(arrived[part.sha256].pop() if arrived[part.sha256] else self._send(upload_id, part, ids))
            sent += len(part.data)
            on_part(sent)
        body = {"part_ids": ids, "md5": whole.hexdigest()}
        complete = f"/v1/uploads/{quote(upload_id)}/complete"
        return dict(self._client.call("POST", complete, json=body, timeout_s=_COMPLETE_S)["file"])

    def _send(self, upload_id: str, part: _Part, used: Collection[str]) -> str:
        """The id of a part that was sent, and sent again where the connection broke off."""
        for pause_s in _PAUSES_S:
            try:
                return self._post(upload_id, part)
            except (ConnectionFailed, ServerError):
                time.sleep(pause_s)
            with suppress(ConnectionFailed, ServerError):  # the answer may be all that was lost
                there = [id for id in self._arrived(upload_id)[part.sha256] if id not in used]
                if there:
                    return there[0]
        return self._post(upload_id, part)

    def _post(self, upload_id: str, part: _Part) -> str:
        files = {"data": ("part", part.data, "application/octet-stream")}
        return str(self._client.call("POST", f"/v1/uploads/{quote(upload_id)}/parts", files=files)["id"])

    def _arrived(self, upload_id: str) -> defaultdict[str, list[str]]:
        """Ids of the parts that are there, by SHA-256."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        after, more = None, True
        while more:
            params = {"limit": 1000} | ({"after": after} if after else {})
            page = self._client.call("GET", f"/v1/uploads/{quote(upload_id)}/parts", params=params)
            for part in page["data"]:
                found[part["sha256"]].append(part["id"])
            after, more = page["last_id"], page["has_more"]
        return found


def _parts(path: Path) -> Iterator[_Part]:
    with path.open("rb") as file:
        while data := file.read(PART_BYTES):
            yield _Part.of(data)
