"""By what a journal knows that a file or a remote object still is what was looked at."""

from __future__ import annotations

import hashlib
import os

from dali_pipelines.storage import Location, is_url
from dali_pipelines.storage.location import WHOLE_FILE
from dali_pipelines.storage.remote import Remote

Stamp = tuple[int, int]
"""Bytes, and the time of change in ns of a local file or a hash of the version that a server tells of."""

UNKNOWN: Stamp = (-1, -1)
"""Of what could not be read, or whose server tells neither a version nor a date: looked at again next time."""


class Stamps:
    """Stamps during one scan; may be asked from several threads."""

    def __init__(self) -> None:
        self._of_containers: dict[str, Stamp] = {}  # many images ask for the same shard

    def of(self, place: Location) -> Stamp:
        """The stamp of the file or object that an image lies in; of an object, by one request.

        Raises:
            OSError: it is not there, or the server cannot be reached.
        """
        if not is_url(place.file):
            status = os.stat(place.file)
            return status.st_size, status.st_mtime_ns
        if place.length == WHOLE_FILE:
            return _of_object(place.file)
        if place.file not in self._of_containers:
            self._of_containers[place.file] = _of_object(place.file)
        return self._of_containers[place.file]

    def now(self, place: Location) -> Stamp:
        """As `of`; UNKNOWN for what cannot be read."""
        try:
            return self.of(place)
        except OSError:
            return UNKNOWN


def _of_object(url: str) -> Stamp:
    info = Remote(url).info()
    if not info.tells_changes:
        return UNKNOWN
    digest = hashlib.blake2b(info.version.encode(), digest_size=7).digest()
    return info.size or 0, int.from_bytes(digest)
