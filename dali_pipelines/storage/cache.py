"""A folder on a local disk that holds what would be slow to fetch or to unpack again.

Any number of processes share it: each object is fetched by one of them while the others wait, appears whole under its
name or not at all, and is not removed while a process that asked for its path lives. Meant for a local disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

from dali_pipelines.storage.download import fetch
from dali_pipelines.storage.errors import StorageError
from dali_pipelines.storage.location import WHOLE_FILE, Location
from dali_pipelines.storage.remote import Remote, shown
from dali_pipelines.storage.room import Room

_ENDING = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}$")
_DEFAULT_GB = "100"


class Cache:
    """The cache of one machine, shared by its processes."""

    def __init__(self, folder: Path, *, max_bytes: int, trust_copies: bool = False) -> None:
        """
        Args:
            trust_copies: read a copy that is there without asking whether its original has changed since.
        """
        self.root, self.max_bytes = folder, max_bytes
        self._trust_copies = trust_copies
        self._room = Room(folder, max_bytes=max_bytes)
        self._shards: dict[str, Path] = {}  # files that parts were read from: asked after once

    @classmethod
    def open(cls, path: str | None = None, max_gb: float | None = None, *, trust_copies: bool = False) -> Self:
        """The cache of the spec's `data.cache`; nothing is created before it is needed.

        Raises:
            StorageError: ATTUNE_CACHE_MAX_GB is no number above 0.
        """
        folder = path or os.environ.get("ATTUNE_CACHE") or "~/.cache/attune"
        size = _default_gb() if max_gb is None else max_gb
        return cls(Path(folder).expanduser().resolve(), max_bytes=round(size * 1e9), trust_copies=trust_copies)

    def file(self, url: str) -> Path:
        """The local copy of a remote file, fetched if it is missing or has changed; kept while this process lives.

        Raises:
            CacheTooSmallError: it is larger than the cache may be.
            StorageError: it cannot be fetched, or there is no room for it.
        """
        while True:
            path = self._copy(url, trusted=False, spare_recent=False)
            if path is not None and self._room.hold(path):
                return path

    def folder(self, key: str, fill: Callable[[Path], None], *, num_bytes: int = 0) -> Path:
        """A folder that `fill` made, now or earlier; kept while this process lives.

        Args:
            key: what determines the folder's content.
            fill: writes the content into an empty folder. What it raises is raised, and what it wrote is removed.
            num_bytes: what it will write, as far as that is known; room is made before.

        Raises:
            CacheTooSmallError: the content is larger than the cache may be.
            StorageError: there is no room for it.
        """
        self._room.make()
        path = self.folder_of(key)
        while not self._room.hold(path):
            with self._room.making(path.name) as partial:
                if not path.exists():
                    self._fill(path, partial, fill, num_bytes)
        return path

    def folder_of(self, key: str) -> Path:
        """Where `folder` keeps what is called `key`, whether it is there or not."""
        return self.root / "folders" / _hash(key, length=40)

    def hold(self, path: Path | str) -> bool:
        """Keep the entry that a path leads into while this process lives; False if it is gone.

        A path outside the cache is nothing that could go: True.
        """
        path = Path(path)
        if not path.is_relative_to(self.root):
            return True
        self._room.make()
        depth = 3 if path.relative_to(self.root).parts[0] == "files" else 2
        return self._room.hold(self.root.joinpath(*path.relative_to(self.root).parts[:depth]))

    def read(self, location: Location) -> bytes:
        """The bytes of a remote file or of a part of one, from its copy.

        Where room for a copy could be made only by removing what was read a moment ago, the bytes come from the
        original and no copy is made: data larger than the cache do not chase each other through it.

        Raises:
            StorageError: they cannot be fetched.
        """
        while True:
            path = self._copy_of(location)
            if path is None:
                return _read_remote(location)
            try:
                return read_range(str(path), location.offset, location.length)
            except FileNotFoundError:  # removed in this moment to make room
                self._shards.pop(location.file, None)

    def _copy_of(self, location: Location) -> Path | None:
        if location.length == WHOLE_FILE:
            return self._copy(location.file, trusted=self._trust_copies, spare_recent=True)
        path = self._shards.get(location.file)
        if path is None:
            path = self._copy(location.file, trusted=self._trust_copies, spare_recent=True)
            if path is not None:
                self._shards[location.file] = path
        return path

    def _copy(self, url: str, *, trusted: bool, spare_recent: bool) -> Path | None:
        """A copy of a remote file; None if it would take the room of recent ones and that is not wanted."""
        self._room.make()
        digest = _hash(url, length=32)
        shelf = self.root / "files" / digest[:2]
        if trusted and (path := _recorded(shelf, digest)) is not None:
            self._room.used(path)
            return path
        remote = Remote(url)
        info = remote.info()
        ending = _ENDING.search(shown(url))
        path = shelf / f"{digest}-{_hash(info.version, length=8)}{ending[0] if ending else ''}"
        if path.exists():
            self._room.used(path)
            return path
        fetched = fetch(remote, info, path, room=self._room, record=shelf / f"{digest}.json", spare_recent=spare_recent)
        return path if fetched else None

    def _fill(self, path: Path, partial: Path, fill: Callable[[Path], None], num_bytes: int) -> None:
        what = "a folder of unpacked images"
        self._room.begin(partial, num_bytes=num_bytes, version="", what=what)
        try:
            partial.mkdir()
            fill(partial)
            self._room.publish(partial, path, what=what, record=path.with_name(f"{path.name}.json"), facts={})
        except BaseException:
            self._room.abandon(partial)
            raise


def _default_gb() -> float:
    value = os.environ.get("ATTUNE_CACHE_MAX_GB") or _DEFAULT_GB
    try:
        size = float(value)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise StorageError(f"ATTUNE_CACHE_MAX_GB is {value!r}; it must be a number of GB above 0")
    return size


def read_range(file: str, offset: int, length: int) -> bytes:
    """Part of a local file, or with length -1 all from `offset` on.

    Raises:
        OSError: it cannot be read, or ends before.
    """
    with open(file, "rb") as opened:
        opened.seek(offset)
        data = opened.read() if length == WHOLE_FILE else opened.read(length)
    if length != WHOLE_FILE and len(data) < length:
        raise OSError(f"{file!r} ends {length - len(data)} bytes before byte {offset + length}, the end of the image")
    return data


def _read_remote(location: Location) -> bytes:
    if location.length == WHOLE_FILE:
        return Remote(location.file).read()
    return Remote(location.file).read(location.offset, location.offset + location.length)


def _recorded(shelf: Path, digest: str) -> Path | None:
    """The copy that was fetched last."""
    try:
        path = shelf / json.loads((shelf / f"{digest}.json").read_text())["name"]
    except FileNotFoundError:
        return None
    return path if path.exists() else None


def _hash(text: str, *, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
