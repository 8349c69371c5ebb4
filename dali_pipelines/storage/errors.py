"""What can go wrong between a location and its bytes."""

from __future__ import annotations


class StorageError(OSError):
    """Something cannot be fetched, listed or kept; the text says what and why."""


class OutageError(StorageError):
    """The network or the server failed again and again; the object itself may be fine."""


class CacheTooSmallError(StorageError):
    """One thing that is wanted is larger than the whole cache may be."""

    def __init__(self, what: str, *, needed: int, allowed: int) -> None:
        self.needed, self.allowed = needed, allowed
        super().__init__(
            f"{what} needs {needed / 1e9:.3g} GB in the local cache, and data.cache.max_gb allows {allowed / 1e9:.3g}; "
            f"set data.cache.max_gb (or ATTUNE_CACHE_MAX_GB) to at least {needed / 1e9 * 1.01:.3g}"
        )
