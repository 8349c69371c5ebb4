"""Why each waiting job waits, in a sentence. Nobody learns the ids of another project's jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from service.jobs.scheduling.state import Place, Plan, State, Wait, Waiting
from service.store.queue import Queue
from service.store.records import JobRecord


def places(state: State, plan: Plan, *, viewer: str | None) -> list[Place]:
    """The places of all jobs that a plan looked at, in its order.

    Args:
        viewer: only the jobs of this project are told of; None: all are.
    """
    jobs = {job.id: job for job in state.waiting}
    numbered = ((position, jobs[id]) for position, id in enumerate(plan.order, start=1))
    return [
        _place(job, plan.waits.get(job.id), position, jobs=jobs, state=state, viewer=viewer)
        for position, job in numbered
        if viewer in (None, job.project_id)
    ]


def far_back(job: JobRecord, queue: Queue) -> Place:
    """The place of a queued job that is behind all that a plan looks at."""
    ahead = queue.num_ahead(job)
    return Place(
        job_id=job.id,
        project_id=job.project_id,
        priority=job.priority,
        position=ahead + 1,
        devices=None if job.devices_per_node is None else job.nodes * job.devices_per_node,
        reason="far_back",
        message=f"{ahead} jobs of a higher priority, or before it in the line of its project, go first",
    )


def _place(
    job: Waiting, wait: Wait | None, position: int, *, jobs: dict[str, Waiting], state: State, viewer: str | None
) -> Place:
    return Place(
        job_id=job.id,
        project_id=job.project_id,
        priority=job.priority,
        position=position,
        devices=job.num_devices,
        reason="starting" if wait is None else wait.why,
        message="starts now" if wait is None else _sentence(job, wait, jobs=jobs, state=state, viewer=viewer),
        estimated_start=state.now if wait is None else wait.starts_at,
    )


def _sentence(job: Waiting, wait: Wait, *, jobs: dict[str, Waiting], state: State, viewer: str | None) -> str:
    project = f"project {job.project_id}"
    match wait.why:
        case "not_before":
            when = datetime.fromtimestamp(job.not_before, UTC).strftime("%H:%M:%S UTC")
            return f"waits until {when} before it is tried again"
        case "more_than_there_is":
            return f"wants {_wanted(job)}, and {_machines(state)}"
        case "more_than_the_quota":
            return f"wants {_count(wait.wanted, 'device')}, and {project} may hold {wait.limit} at once"
        case "project_devices":
            return f"{project} is at its quota of {_count(wait.limit or 0, 'device')}"
        case "project_running_jobs":
            return f"{project} is at its quota of {_count(wait.limit or 0, 'running job')}"
        case "stopping":
            return f"waits for {_wanted(job)}, which jobs that are stopping hold"
        case "devices":
            short = f"waits for {_wanted(job)}, {wait.free} {'is' if wait.free == 1 else 'are'} free"
            return short if wait.behind is None else f"{short}; behind {_named(jobs[wait.behind], viewer)}"


def _wanted(job: Waiting) -> str:
    devices = _count(job.devices, "device")
    return devices if job.nodes == 1 else f"{devices} on each of {job.nodes} machines"


def _machines(state: State) -> str:
    counts: Sequence[int] = [len(node.devices) for node in state.nodes]
    return f"the machines that are there have {', '.join(map(str, counts))}" if counts else "no machine is there"


def _named(job: Waiting, viewer: str | None) -> str:
    return job.id if viewer in (None, job.project_id) else "a job of another project"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
