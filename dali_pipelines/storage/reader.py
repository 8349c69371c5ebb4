"""Reads an image's bytes from where they lie."""

from __future__ import annotations

from dali_pipelines.storage.cache import Cache, read_range
from dali_pipelines.storage.errors import StorageError
from dali_pipelines.storage.location import Location, is_url

NUM_REMOTE_READERS = 16
"""Remote objects worth reading at a time: they wait for the network and not for a core."""


def read_bytes(location: Location, cache: Cache) -> bytes:
    """The bytes at a location: a local file, a part of one, or a remote object through the cache.

    Raises:
        OSError: they cannot be read; `why_unreadable` says it in words.
    """
    if is_url(location.file):
        return cache.read(location)
    return read_range(location.file, location.offset, location.length)


def why_unreadable(error: OSError) -> str:
    """What kept bytes from being read, as reports word it."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, StorageError):
        return str(error)
    return error.strerror or str(error)
