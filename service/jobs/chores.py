"""Work beside the running of jobs that one replica at a time does, in a thread of its own, at intervals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from service.store.store import Store

log = logging.getLogger(__name__)

LEASE_S = 15.0
"""How long a chore stays with a replica that is not heard of any more."""


class Chore:
    """A turn every `interval_s` seconds, while there is something to do and no other replica does it."""

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        owner: str,
        interval_s: float,
        turn: Callable[[], None],
        needed: Callable[[], bool] = lambda: True,
        lease_s: float = LEASE_S,
    ) -> None:
        """`name` is that of the lease, `owner` the replica. `needed` is asked before each turn, and is cheap."""
        self._store = store
        self._name = name
        self._owner = owner
        self._interval_s = interval_s
        self._turn = turn
        self._needed = needed
        self._lease_s = lease_s
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_error = ""

    def start(self) -> None:
        """Begin."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._loop, name=f"chore-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the turn that is going on, and let another replica take over at once."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._store.leases.release(self._name, owner=self._owner)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Look now whether there is something to do."""
        self._wake.set()

    def hold(self) -> bool:
        """Whether it is ours, for a turn that may last longer than the lease to ask between two things that it does."""
        return self._store.leases.keep(self._name, owner=self._owner, ttl_s=self._lease_s)

    def do(self) -> bool:
        """One turn; whether it was ours and there was something to do. An error is logged, once while it stays."""
        try:
            if not self._needed():
                return False
            if not self.hold():
                return False
            self._turn()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if text != self._last_error:
                log.exception("error in the chore %r; it goes on", self._name)
            self._last_error = text
            return False
        self._last_error = ""
        return True

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self.do()
            self._wake.wait(self._interval_s)
            self._wake.clear()
