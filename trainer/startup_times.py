"""Where the time between a worker's start and its first step goes. Imports no torch."""

from __future__ import annotations

import time

import psutil

from trainer.events import Phase

_ends: dict[Phase, float] = {}


def phase_ends(phase: Phase) -> None:
    """Note that a phase is over; what happens again later does not count."""
    _ends.setdefault(phase, time.time())


def seconds_by_phase() -> dict[Phase, float]:
    """What each phase took, from the start of this process on."""
    taken, before = {}, psutil.Process().create_time()
    for phase, end in _ends.items():
        taken[phase], before = max(0.0, end - before), end
    return taken
