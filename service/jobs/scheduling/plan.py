"""Who starts now, on what, and who must make room: a pure function of the state.

1. Jobs are looked at by priority, then by their projects' shares, then by age (`fair_share`).
2. One whose project is at its quota waits, and so does all that its project queued behind it.
3. One that fits starts: all its devices at once, or none.
4. One that fits once runs that are stopping have stopped is promised their devices.
5. One that fits if preemptible runs of lower priority stop has them stopped, after a checkpoint.
6. The first of those left gets a reservation; later ones start only where they do not put it off (`board`).
"""

from __future__ import annotations

import math
from collections import Counter

from service.jobs.scheduling.board import Board
from service.jobs.scheduling.fair_share import in_order
from service.jobs.scheduling.preemption import choose_victims
from service.jobs.scheduling.state import Grant, Plan, Preemption, Running, State, Wait, Waiting, Why


def plan(state: State) -> Plan:
    """What to do now."""
    turn = _Turn(state)
    ordered = in_order(state.waiting, projects=state.projects, running=state.running)
    for job in ordered:
        turn.consider(job)
    return Plan(
        order=tuple(job.id for job in ordered),
        grants=tuple(turn.grants),
        preemptions=tuple(turn.preemptions),
        waits=turn.waits,
    )


class _Turn:
    """The decisions so far."""

    def __init__(self, state: State) -> None:
        self.grants: list[Grant] = []
        self.preemptions: list[Preemption] = []
        self.waits: dict[str, Wait] = {}
        self._state = state
        self._board = Board(state)
        self._running = list(state.running)
        self._num_devices: Counter[str] = Counter()
        self._num_jobs: Counter[str] = Counter()
        for run in state.running:
            self._num_devices[run.project_id] += run.num_devices
            self._num_jobs[run.project_id] += 1
        self._full: dict[str, tuple[Why, int]] = {}
        self._reserved_for: str | None = None

    def consider(self, job: Waiting) -> None:
        """Decide about one job, after all that go before it."""
        if job.not_before > self._state.now:
            self._wait(job, "not_before", starts_at=job.not_before)
        elif not self._board.could_host(job):
            self._wait(job, "more_than_there_is")
        elif (quota := self._quota(job)) is not None:
            self._wait(job, quota[0], limit=quota[1])
        elif (placement := self._board.fit(job)) is not None:
            self._board.give(job, placement)
            self._charge(job)
            self.grants.append(Grant(job.id, placement))
        elif not self._make_room(job):
            self._queue_up(job)

    def _quota(self, job: Waiting) -> tuple[Why, int] | None:
        """The quota of its project that keeps a job from starting, and how much it is."""
        share = self._state.projects[job.project_id]
        if share.max_devices is not None and job.num_devices > share.max_devices:
            return "more_than_the_quota", share.max_devices
        if job.project_id in self._full:
            return self._full[job.project_id]
        if share.max_running_jobs is not None and self._num_jobs[job.project_id] >= share.max_running_jobs:
            self._full[job.project_id] = ("project_running_jobs", share.max_running_jobs)
        elif (
            share.max_devices is not None
            and self._num_devices[job.project_id] + job.num_devices > share.max_devices
        ):  # fmt: skip
            self._full[job.project_id] = ("project_devices", share.max_devices)
        return self._full.get(job.project_id)

    def _make_room(self, job: Waiting) -> bool:
        """Promise a job devices that come free soon, perhaps because others are asked to stop for it."""
        found = choose_victims(job, missing=self._board.missing(job), running=self._running)
        if found is None:
            return False
        nodes, victims = found
        for victim in victims:
            self.preemptions.append(Preemption(victim.job_id, victim.number, job.id))
            self._stop(victim)
        self._board.promise(job, nodes)
        self._charge(job)
        self._wait(job, "stopping", starts_at=self._state.now)
        return True

    def _stop(self, victim: Running) -> None:
        self._running.remove(victim)
        self._board.will_stop(victim)

    def _queue_up(self, job: Waiting) -> None:
        starts_at = None
        if self._board.hold is None:
            self._board.reserve(job)
            assert self._board.hold is not None
            starts_at = self._board.hold.starts_at
        self._wait(job, "devices", starts_at=starts_at if starts_at is not None and math.isfinite(starts_at) else None)
        self._reserved_for = self._reserved_for or job.id

    def _charge(self, job: Waiting) -> None:
        self._num_devices[job.project_id] += job.num_devices
        self._num_jobs[job.project_id] += 1

    def _wait(self, job: Waiting, why: Why, *, limit: int | None = None, starts_at: float | None = None) -> None:
        self.waits[job.id] = Wait(
            job_id=job.id,
            why=why,
            wanted=job.num_devices,
            free=self._board.num_free,
            limit=limit,
            behind=self._reserved_for,
            starts_at=starts_at,
        )
