"""Reads an image's bytes from where they lie."""

from __future__ import annotations

from dali_pipelines.storage.cache import Cache
from dali_pipelines.storage.location import WHOLE_FILE, Location


def read_bytes(location: Location, cache: Cache) -> bytes:
    """The bytes at a location.

    Raises:
        OSError: they cannot be read.
    """
    with open(location.file, "rb") as file:
        file.seek(location.offset)
        return file.read() if location.length == WHOLE_FILE else file.read(location.length)
