"""The order in which waiting jobs are looked at: by priority, then by what their projects have had, then by age.

Within a priority those go first for which runs have been stopped: or else these might have stopped in vain.

Among projects of the same priority the next job comes from the one that has had the least for its weight. What it has
had is its recent device-seconds, which halve every `usage_half_life_s`, and ten minutes in advance for each device
that it holds or that was just planned for it, so that projects that begin equal take turns.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from service.jobs.scheduling.state import Running, Share, Waiting

ADVANCE_S = 600.0
"""Device-seconds that a device counts for as soon as it is given."""


def in_order(
    waiting: Iterable[Waiting], *, projects: Mapping[str, Share], running: Iterable[Running] = ()
) -> list[Waiting]:
    """The jobs in the order in which they should start."""
    had = {name: share.used for name, share in projects.items()}
    for run in running:
        had[run.project_id] += run.num_devices * ADVANCE_S
    by_priority: dict[int, list[Waiting]] = defaultdict(list)
    for job in waiting:
        by_priority[job.priority].append(job)
    ordered: list[Waiting] = []
    for priority in sorted(by_priority, reverse=True):
        for first in (True, False):
            alike = [job for job in by_priority[priority] if job.room_made is first]
            ordered += _take_turns(alike, projects=projects, had=had)
    return ordered


def _take_turns(jobs: list[Waiting], *, projects: Mapping[str, Share], had: dict[str, float]) -> list[Waiting]:
    lines: dict[str, deque[Waiting]] = defaultdict(deque)
    for job in sorted(jobs, key=lambda job: (job.queue_order, job.id)):
        lines[job.project_id].append(job)
    # Of equals, whoever waits at the front longest.
    heap = [(had[name] / projects[name].weight, line[0].queue_order, name) for name, line in lines.items()]
    heapq.heapify(heap)
    ordered = []
    while heap:
        _, _, name = heap[0]
        job = lines[name].popleft()
        ordered.append(job)
        had[name] += job.num_devices * ADVANCE_S
        if lines[name]:
            heapq.heapreplace(heap, (had[name] / projects[name].weight, lines[name][0].queue_order, name))
        else:
            heapq.heappop(heap)
    return ordered
