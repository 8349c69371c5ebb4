"""Which running processes use what in the cache.

A process that uses entries has a file in `users/` whose lock it holds as long as it lives, however it ends, and which
names what it uses. What is being made is known by the lock of whoever makes it.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.005
"""Seconds between two tries to take a lock."""


class Users:
    """The processes that use a cache folder; to be asked under the cache's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, entry: Path) -> None:
        """Keep an entry while this process lives."""
        user = _of_this_process.get(self._folder)
        if user is None:
            user = _of_this_process[self._folder] = _User(self._folder / "users" / uuid.uuid4().hex)
        user.add(str(entry.relative_to(self._folder)))

    def held(self) -> set[Path]:
        """What running processes use or make; forgets the processes that are gone."""
        mine = _of_this_process.get(self._folder)
        held: set[Path] = set()
        for place in os.scandir(self._folder / "users"):
            path = Path(place.path)
            if (mine is not None and path == mine.path) or not _removed_if_over(path):
                held |= {self._folder / name for name in path.read_text().splitlines()}
        for place in os.scandir(self._folder / "locks"):
            if not _removed_if_over(Path(place.path)):
                held.add(self._folder / "partial" / place.name.removesuffix(".lock"))
        return held


class _User:
    """This process, as the others see it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, thread_local=False)
        self._lock.acquire()
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        if name not in self._names:
            with self.path.open("a") as file:
                file.write(f"{name}\n")
            self._names.add(name)


_of_this_process: dict[Path, _User] = {}


def _removed_if_over(path: Path) -> bool:
    """Remove a lock file that nobody holds; False if somebody does."""
    try:
        with FileLock(path, blocking=False):
            path.unlink()  # while it is held: who waits for it sees that it is gone, and makes a new one
            return True
    except Timeout:
        return False
