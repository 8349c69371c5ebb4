"""Keeps SQLite's write-ahead log short, from a thread of its own.

Otherwise SQLite copies a long log into the database file when somebody commits, and all who write wait for the disk
meanwhile. A passive checkpoint does the same beside readers and writers (https://www.sqlite.org/wal.html#ckpt).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from service.store.engine import Database

logger = logging.getLogger(__name__)

EVERY_S = 5.0
"""Whoever writes first after a copy waits for the disk once, as the log starts anew: not to be done too often."""
_MOST_ROUNDS = 3
"""What was written during one round takes the next: the log starts anew only when all of it has been copied."""


class WriteAheadLog:
    """The log of one database; nothing is done for a database that has none, such as PostgreSQL."""

    def __init__(self, database: Database, *, every_s: float = EVERY_S) -> None:
        self._file = database.file
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: tuple[int, int] | None = None

    def start(self) -> None:
        """Begin."""
        if self._file is not None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._loop, args=(self._file,), name="write-ahead-log", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End; whoever closes the database last copies the rest."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self, file: Path) -> None:
        told = ""
        while not self._stopping.wait(self._every_s):
            try:
                if self._has_grown(file):
                    self._copy(file)
                    told = ""
            except (sqlite3.Error, OSError) as error:
                if str(error) != told:
                    logger.warning("cannot copy the write-ahead log of %s, and go on: %s", file, error)
                told = str(error)

    def _has_grown(self, file: Path) -> bool:
        try:
            found = file.with_name(f"{file.name}-wal").stat()
        except FileNotFoundError:
            return False
        before, self._seen = self._seen, (found.st_mtime_ns, found.st_size)
        return self._seen != before

    def _copy(self, file: Path) -> None:
        # Opened for each copy: one that stays open would keep a file that somebody has removed or replaced.
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0.0)
        try:
            for _ in range(_MOST_ROUNDS):
                busy, in_log, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if busy or in_log == copied:
                    return
        finally:
            connection.close()
