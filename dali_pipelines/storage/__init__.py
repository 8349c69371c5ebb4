"""Bytes of images wherever they lie: local files, parts of larger files, remote objects through the local cache."""

from dali_pipelines.storage.cache import Cache
from dali_pipelines.storage.errors import CacheTooSmallError, OutageError, StorageError
from dali_pipelines.storage.listing import list_files
from dali_pipelines.storage.location import Location, is_url
from dali_pipelines.storage.reader import NUM_REMOTE_READERS, read_bytes, why_unreadable

__all__ = [
    "NUM_REMOTE_READERS",
    "Cache",
    "CacheTooSmallError",
    "Location",
    "OutageError",
    "StorageError",
    "is_url",
    "list_files",
    "read_bytes",
    "why_unreadable",
]
