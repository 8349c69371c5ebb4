"""Reads from the store what a plan needs, and no more often than that pays.

A turn costs one look at an index while nothing waits. While all devices are taken, the queue is only read if a job of
higher priority than some preemptible run waits. Otherwise the heads of the lines are read until there are `WINDOW` jobs
that could start: what is behind them in line is planned when they are gone. Those that cannot start now, such as jobs
of a project at its quota, take no place of others. After a plan that changed nothing, the next one waits until
devices or queue have changed, or for fifty times as long as the plan took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from service.jobs.scheduling.fair_share import ADVANCE_S
from service.jobs.scheduling.plan import plan
from service.jobs.scheduling.quotas import Quotas
from service.jobs.scheduling.state import Plan, Running, Share, State, Waiting
from service.jobs.scheduling.wanted import could_host, fewer, settle
from service.launchers.base import Capacity, Launcher, NodeShare, Placement
from service.store.projects import decayed
from service.store.queue import QueuedJob, RunningJob
from service.store.records import JobStatus, ProjectRecord
from service.store.store import Store

WINDOW = 128
"""Most waiting jobs that a plan looks at, of those that could start."""
_FEWEST_OF_A_PROJECT = 8
_MOST_WITHIN_A_QUOTA = 16  # at once: where the first of them is too large, the others are read for nothing
_REST_FACTOR = 50.0
_LONGEST_REST_S = 5.0
_LEAST_WEIGHT = 1e-6


class Scheduler:
    """Plans on one engine."""

    def __init__(self, store: Store, launcher: Launcher) -> None:
        self._store = store
        self._launcher = launcher
        self._seen: object = None
        self._rests_until = 0.0

    def decide(self) -> Plan | None:
        """What to do now; None if there is nothing to decide."""
        newest = self._store.queue.newest()
        if newest is None:
            return None
        capacity = self._launcher.capacity()
        taken = self._store.attempts.leased_devices()
        seen = (capacity, frozenset(taken), newest)
        began = time.monotonic()
        if seen == self._seen and began < self._rests_until:
            return None
        decided = plan(self.state(capacity)) if self._worthwhile(capacity, taken) else None
        if decided is None or not decided.changes_anything:
            spent = time.monotonic() - began
            self._seen, self._rests_until = seen, began + min(_LONGEST_REST_S, _REST_FACTOR * spent)
        return decided

    def state(self, capacity: Capacity | None = None, *, window: int = WINDOW, with_stuck: bool = False) -> State:
        """All that a plan depends on, as it is now.

        Args:
            window: most waiting jobs to read.
            with_stuck: also read `window` jobs that go before others but cannot start now, to tell why.
        """
        now = time.time()
        capacity = capacity or self._launcher.capacity()
        running = [_running(run, now) for run in self._store.queue.running()]
        records = {project.id: project for project in self._store.projects.list()}
        shares = _shares(records.values(), running, half_life_s=self._store.usage_half_life_s, now=now)
        found = self._startable(shares, running, capacity=capacity, window=window, now=now)
        if with_stuck:
            rows = self._heads(shares, running, window=window)
            found = {
                row.id: self._waiting(row, capacity, shares[row.project_id].max_devices, now) for row in rows
            } | found
        return State(
            now=now, nodes=capacity.nodes, running=tuple(running), waiting=tuple(found.values()), projects=shares
        )  # fmt: skip

    def preview(self, *, window: int = 4 * WINDOW) -> tuple[State, Plan]:
        """The state and what a plan would decide now; nothing is done.

        Args:
            window: most waiting jobs to look at.
        """
        state = self.state(window=window, with_stuck=True)
        return state, plan(state)

    def _worthwhile(self, capacity: Capacity, taken: set[tuple[str, int]]) -> bool:
        """Whether a plan could change anything: a device is free, or there may be somebody to preempt."""
        if capacity.count == 0 or any((n.node, d) not in taken for n in capacity.nodes for d in n.devices):
            return True
        top = self._store.queue.top_priority()
        runs = self._store.queue.running()
        return top is not None and any(run.preemptible and not _stopping(run) and run.priority < top for run in runs)

    def _startable(
        self, shares: Mapping[str, Share], running: Sequence[Running], *, capacity: Capacity, window: int, now: float
    ) -> dict[str, Waiting]:
        """The first jobs of each line that could start if there were devices, and by the way some that could not."""
        found: dict[str, Waiting] = {}
        quotas, num_startable = Quotas(shares, running), 0
        largest = max((len(node.devices) for node in capacity.nodes), default=0)
        # Where machines come and go, what none of them could host waits; elsewhere it is refused as soon as it is read.
        most = (len(capacity.nodes), largest) if capacity.may_grow else None
        for priority, projects in self._lines(shares, running):
            of_each = max(_FEWEST_OF_A_PROJECT, (window - num_startable) // len(projects))
            for project in projects:
                if num_startable >= window:
                    return found
                if quotas.most(project) < 1:
                    continue
                limit = of_each if math.isinf(quotas.most(project)) else min(of_each, _MOST_WITHIN_A_QUOTA)
                for row in self._store.queue.head(priority, project, limit=limit, ready_at=now, most=most):
                    job = self._waiting(row, capacity, shares[project].max_devices, now)
                    num_startable += could_host(job.nodes, job.devices, capacity) and quotas.admit(job)
                    found[job.id] = job
        return found

    def _heads(self, shares: Mapping[str, Share], running: Sequence[Running], *, window: int) -> list[QueuedJob]:
        """The first jobs of each line."""
        rows: list[QueuedJob] = []
        for priority, projects in self._lines(shares, running):
            of_each = max(_FEWEST_OF_A_PROJECT, (window - len(rows)) // len(projects))
            for project in projects:
                if len(rows) >= window:
                    return rows
                rows += self._store.queue.head(priority, project, limit=of_each)
        return rows

    def _lines(self, shares: Mapping[str, Share], running: Sequence[Running]) -> Iterator[tuple[int, list[str]]]:
        """The priorities that wait, the highest first, each with its projects, of which those go first that are due."""
        had = {name: share.used for name, share in shares.items()}
        for run in running:
            had[run.project_id] += run.num_devices * ADVANCE_S
        by_priority: dict[int, list[str]] = {}
        for priority, project in self._store.queue.lines():
            by_priority.setdefault(priority, []).append(project)
        for priority, projects in by_priority.items():
            yield priority, sorted(projects, key=lambda name: had[name] / shares[name].weight)

    def _waiting(self, row: QueuedJob, capacity: Capacity, max_devices: int | None, now: float) -> Waiting:
        nodes = row.nodes
        devices = settle(row.devices_per_node, nodes=nodes, capacity=capacity, max_devices=max_devices)
        if row.min_devices is not None and row.num_attempts > 0:
            job = self._store.jobs.get(row.id)
            nodes, devices = (job and fewer(job, devices=devices, capacity=capacity)) or (nodes, devices)
        return Waiting(
            id=row.id,
            project_id=row.project_id,
            priority=row.priority,
            queue_order=row.queue_order,
            nodes=nodes,
            devices=devices,
            longest_s=_longest(row, now),
            not_before=row.not_before,
            room_made=row.room_made,
        )


def _running(run: RunningJob, now: float) -> Running:
    return Running(
        job_id=run.job_id,
        number=run.number,
        project_id=run.project_id,
        priority=run.priority,
        placement=_placement(run.placement),
        started_at=run.created_at,
        preemptible=run.preemptible and run.status is JobStatus.RUNNING,
        ends_at=_ends_at(run),
        stopping=_stopping(run),
    )


def _placement(shares: Iterable[Mapping[str, object]]) -> Placement:
    return tuple(NodeShare(str(share["node"]), tuple(share["devices"])) for share in shares)  # type: ignore[arg-type]


def _stopping(run: RunningJob) -> bool:
    asked = run.stop_requested_at is not None or run.stop_reason is not None
    return asked or run.cancel_requested or run.status is JobStatus.PAUSED


def _ends_at(run: RunningJob) -> float | None:
    """The earlier of what the worker expects and what the job's longest runtime allows."""
    latest = None if run.max_runtime_s is None else run.created_at + run.max_runtime_s - run.runtime_s
    known = [end for end in (run.estimated_finish, latest) if end is not None]
    return min(known, default=None)


def _longest(row: QueuedJob, now: float) -> float | None:
    """Only what is sure to end a run: a reservation goes by it."""
    left = None if row.max_runtime_s is None else row.max_runtime_s - row.runtime_s
    known = [seconds for seconds in (left, row.deadline_at and row.deadline_at - now) if seconds is not None]
    return max(0.0, min(known)) if known else None


def _shares(
    projects: Iterable[ProjectRecord], running: Sequence[Running], *, half_life_s: float, now: float
) -> dict[str, Share]:
    so_far: dict[str, float] = {}
    for run in running:
        so_far[run.project_id] = so_far.get(run.project_id, 0.0) + run.num_devices * max(0.0, now - run.started_at)
    return {
        project.id: Share(
            weight=max(_LEAST_WEIGHT, project.weight),
            used=decayed(project.device_seconds, for_s=now - project.usage_at, half_life_s=half_life_s)
            + so_far.get(project.id, 0.0),
            max_devices=project.max_devices,
            max_running_jobs=project.max_running_jobs,
        )
        for project in projects
    }
