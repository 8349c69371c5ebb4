"""Tells which looks at data take too long, and which job's data are looked at next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.store.records import JobRecord

_LOOK_EVERY_S = 5.0  # each look goes over all processes of the machine


@dataclass(frozen=True, kw_only=True)
class PreflightLimits:
    """How long looking at a job's data may take."""

    stall_s: float = 900.0
    """Without a sign of life: something written, or a second of computing."""
    total_s: float = 86_400.0
    """In all."""


@dataclass(frozen=True)
class _Seen:
    sign: object
    since: float
    looked_at: float


class PreflightWatch:
    """Watches living preflights; what it has seen is in memory, so that a new service gives them their time anew."""

    def __init__(self, limits: PreflightLimits) -> None:
        self._limits = limits
        self._look_every_s = min(_LOOK_EVERY_S, limits.stall_s / 10)
        self._signs: dict[str, _Seen] = {}

    def overdue(self, job_id: str, *, folder: Path, pid: int | None, began_at: float | None) -> str | None:
        """Why a preflight has had its time, in a sentence; None if it has not.

        Args:
            folder: what it writes into.
            pid: of its process, if it runs on this machine.
        """
        if began_at is not None and time.time() - began_at > self._limits.total_s:
            return f"looking at the data took longer than {self._limits.total_s:.0f} s"
        if pid is None:
            return None
        now, last = time.monotonic(), self._signs.get(job_id)
        if last is not None and now < last.looked_at + self._look_every_s:
            return None
        sign = (_newest(folder), _computed_s(pid))
        since = last.since if last is not None and last.sign == sign else now
        self._signs[job_id] = _Seen(sign, since, looked_at=now)
        if now - since > self._limits.stall_s:
            return f"looking at the data gave no sign of life for {self._limits.stall_s:.0f} s; can they be reached?"
        return None

    def forget(self, job_id: str) -> None:
        """A preflight is over."""
        self._signs.pop(job_id, None)


def in_turn(jobs: Iterable[JobRecord], *, is_under_way: Callable[[JobRecord], bool]) -> list[JobRecord]:
    """Jobs whose data are to be looked at: those that are under way, then the first of each project in turn, beginning
    with the projects that have the fewest under way."""
    known = list(jobs)
    going = [job for job in known if is_under_way(job)]
    places = Counter(job.project_id for job in going)
    waiting = []
    for place, job in enumerate(job for job in known if job not in going):
        waiting.append((places[job.project_id], place, job))
        places[job.project_id] += 1
    return going + [job for _, _, job in sorted(waiting, key=lambda entry: entry[:2])]


def _newest(folder: Path) -> tuple[int, int]:
    """When anything below a folder was last written, and how many bytes there are."""
    newest, num_bytes = 0, 0
    for path in folder.rglob("*"):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        newest, num_bytes = max(newest, found.st_mtime_ns), num_bytes + found.st_size
    return newest, num_bytes


def _computed_s(pid: int) -> int:
    """Whole seconds that a process and its children have computed."""
    try:
        leader = psutil.Process(pid)
        family: Collection[psutil.Process] = [leader, *leader.children(recursive=True)]
        return int(sum(sum(process.cpu_times()[:4]) for process in family))
    except psutil.Error:
        return 0
