"""The cache folder's space: what it holds, who uses it, and what must go when it is full.

    files/ab/ab12..-34cd.tar    a fetched object: its URL's hash, its version's, its ending
    files/ab/ab12...json        which version of the URL was fetched last
    folders/KEY                 something unpacked, with KEY.json beside it
    partial/NAME                on its way; NAME.json says which version, and how large it will be
    locks/NAME.lock             held by whoever makes NAME
    users/ID                    a running process, which holds the file's lock, and, a line each, what it uses
    total                       bytes kept and promised

An entry's time of modification is when it was last used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dali_pipelines.storage.entries import Entry, all_entries, read_facts, remove, tree_bytes, write_facts
from dali_pipelines.storage.errors import CacheTooSmallError, StorageError
from dali_pipelines.storage.users import POLL_S, Users

_SPARE = 0.05  # share of the cache that is emptied beyond what is needed, so that the next entries find room
_NOTED_S = 60.0  # the time of last use is noted this often
_STARTED = time.time()


class Room:
    """Accounts for the bytes below a folder, for all processes of a machine."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._mutex = threading.RLock()
        self._lock = FileLock(folder / "cache.lock", poll_interval=POLL_S, thread_local=False)
        self._users = Users(folder)
        self._made = False

    def make(self) -> None:
        """Create the folders.

        Raises:
            StorageError: the folder cannot be written.
        """
        if self._made:
            return
        try:
            for name in ("files", "folders", "partial", "locks", "users"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the cache folder {str(self.folder)!r} cannot be made: {error.strerror}") from error
        self._made = True

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Where to make an entry; one process at a time is let in."""
        lock = self.folder / "locks" / f"{name}.lock"
        with FileLock(lock, poll_interval=POLL_S):
            yield self.folder / "partial" / name
            lock.unlink(missing_ok=True)  # while it is held: who waits sees that it is gone, and makes a new one

    def begin(self, partial: Path, *, num_bytes: int, version: str, what: str, spare_recent: bool = False) -> bool:
        """Promise room for an entry, removing what was used longest ago where it lacks.

        What an earlier process left of the same version stays, to go on from.

        Args:
            what: what it is, for messages.
            spare_recent: rather give up than remove what was used since this process began.

        Returns:
            Whether there is room.

        Raises:
            CacheTooSmallError: it is more than the cache may hold.
            StorageError: what is in the cache is in use, or the disk is full.
        """
        with self._locked():
            facts = {"version": version, "bytes": num_bytes}
            if partial.exists() and version and read_facts(partial) == facts:
                return True
            self.abandon(partial)
            if not self._reserve(num_bytes, what, spare_recent):
                return False
            write_facts(partial, facts)
        return True

    def publish(self, partial: Path, entry: Path, *, what: str, record: Path, facts: Mapping[str, object]) -> None:
        """Give a finished entry its name, and write `facts` and its size down in `record`.

        Raises:
            CacheTooSmallError, StorageError: it became larger than was promised, and there is no room.
        """
        with self._locked():
            actual, promised = tree_bytes(partial), read_facts(partial).get("bytes", 0)
            assert isinstance(promised, int)
            write_facts(partial, {"bytes": actual})
            self._set_total(self._total() + actual - promised)
            try:
                self._reserve(0, what, spare_recent=False, needed=actual)
            except StorageError:
                self.abandon(partial)
                raise
            entry.parent.mkdir(exist_ok=True)
            partial.replace(entry)
            os.utime(entry)
            write_facts(entry, {**facts, "bytes": actual}, record=record)
            remove(partial)

    def abandon(self, partial: Path) -> None:
        """Remove an unfinished entry and take back its promise."""
        with self._locked():
            promised = read_facts(partial).get("bytes", 0)
            assert isinstance(promised, int)
            remove(partial)
            self._set_total(max(0, self._total() - promised))

    def hold(self, entry: Path) -> bool:
        """Keep an entry for as long as this process lives; False if it is gone."""
        with self._locked():
            if not entry.exists():
                return False
            self._users.hold(entry)
            os.utime(entry)
        return True

    def used(self, entry: Path) -> None:
        """Note that an entry was used, unless that was noted a moment ago."""
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > _NOTED_S:
                os.utime(entry)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex, self._lock:  # both let their holder in again
            yield

    def _reserve(self, num_bytes: int, what: str, spare_recent: bool, needed: int = 0) -> bool:
        if max(num_bytes, needed) > self.max_bytes:
            raise CacheTooSmallError(what, needed=max(num_bytes, needed), allowed=self.max_bytes)
        if self._total() + num_bytes > self.max_bytes and not self._empty(num_bytes, spare_recent):
            if spare_recent:
                return False
            raise StorageError(
                f"{what} needs {max(num_bytes, needed) / 1e9:.3g} GB, and the cache {str(self.folder)!r} is full of "
                f"what running jobs use; raise data.cache.max_gb, which is {self.max_bytes / 1e9:.3g}"
            )
        self._require_disk(num_bytes, what)
        self._set_total(self._total() + num_bytes)
        return True

    def _empty(self, num_bytes: int, spare_recent: bool) -> bool:
        """Remove entries until there is room; False, and nothing removed, if there cannot be."""
        entries = all_entries(self.folder)
        total = sum(entry.num_bytes for entry in entries)
        self._set_total(total)
        held = self._users.held()
        free = [entry for entry in entries if entry.path not in held and not (spare_recent and _is_recent(entry))]
        if total + num_bytes - sum(entry.num_bytes for entry in free) > self.max_bytes:
            return False
        aim = max(0.0, self.max_bytes * (1 - _SPARE) - num_bytes)
        for entry in sorted(free, key=lambda entry: entry.used_at):
            if total <= aim or (total + num_bytes <= self.max_bytes and _is_recent(entry)):
                break
            remove(entry.path)
            total -= entry.num_bytes
        self._set_total(total)
        return True

    def _total(self) -> int:
        try:
            return int((self.folder / "total").read_text())
        except (FileNotFoundError, ValueError):
            return sum(entry.num_bytes for entry in all_entries(self.folder))

    def _set_total(self, num_bytes: int) -> None:
        partial = self.folder / "total.new"
        partial.write_text(str(num_bytes))
        partial.replace(self.folder / "total")

    def _require_disk(self, num_bytes: int, what: str) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise StorageError(
                f"the disk of the cache {str(self.folder)!r} is full: {what} needs {num_bytes / 1e9:.3g} GB, "
                f"{free / 1e9:.3g} are free"
            )


def _is_recent(entry: Entry) -> bool:
    return entry.used_at >= _STARTED
