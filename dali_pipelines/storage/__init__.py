"""Bytes of images wherever they lie: local files, parts of larger files, remote objects through the local cache."""

from dali_pipelines.storage.cache import Cache
from dali_pipelines.storage.location import Location, is_url
from dali_pipelines.storage.reader import read_bytes

__all__ = ["Cache", "Location", "is_url", "read_bytes"]
