"""A folder on a local disk that holds what would be slow to fetch or to unpack again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self


class Cache:
    """The cache of one machine, shared by its processes."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @classmethod
    def open(cls, path: str | None = None, max_gb: float | None = None) -> Self:
        """The cache of the spec's `data.cache`; nothing is created before it is needed."""
        folder = path or os.environ.get("ATTUNE_CACHE") or Path("~/.cache/attune")
        size = max_gb if max_gb is not None else float(os.environ.get("ATTUNE_CACHE_MAX_GB", 100))
        return cls(Path(folder).expanduser(), max_bytes=round(size * 1e9))
