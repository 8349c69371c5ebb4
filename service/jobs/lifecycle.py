"""The life of a job: what each state means, and what may follow it. Every change of status goes through here.

    validating_files ──> queued <──> paused
                          │  ^         ^
                          v  │         │
                         running ──────┘
                           │
                           v
            succeeded / failed / cancelled          (the last two from every state above)

Terminal states absorb: nothing leaves them. A cancellation is first only requested (`cancel_requested`), which
already keeps the job from becoming anything else; it is `cancelled` once all its processes are gone.
"""

from __future__ import annotations

import time
from typing import Any

from service.store.records import EventLevel, JobRecord, JobStatus, NewEvent
from service.store.store import Store

S = JobStatus

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # Accepted. A preflight process reads the data; it needs no device.
    S.VALIDATING_FILES: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    # The data is good, and the job waits for its devices. It fails here if the machine has fewer than it wants.
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.FAILED, S.CANCELLED}),
    # It has devices and exactly one attempt that has not ended. A crashed attempt is followed by another one
    # on the same devices; where these are lost or taken away, the job is queued again.
    S.RUNNING: frozenset({S.QUEUED, S.SUCCEEDED, S.PAUSED, S.FAILED, S.CANCELLED}),
    # Kept from running until it is queued again. Its last attempt may still be saving; if that attempt got to
    # its end before it heard of the pause, the job ends as it would have ended.
    S.PAUSED: frozenset({S.QUEUED, S.SUCCEEDED, S.FAILED, S.CANCELLED}),
    # The model is exported and registered.
    S.SUCCEEDED: frozenset(),
    # It cannot be run, or ran into an error that another attempt would meet again.
    S.FAILED: frozenset(),
    # Somebody asked for it, and its processes are gone.
    S.CANCELLED: frozenset(),
}


def sources(to: JobStatus) -> frozenset[JobStatus]:
    """The states from which a job may become `to`."""
    return frozenset(status for status, followers in TRANSITIONS.items() if to in followers)


def move(
    store: Store, job_id: str, to: JobStatus, *, message: str | None = None, level: EventLevel = "info", **changes: Any
) -> JobRecord:
    """Change a job's status, with further `changes` of its fields, and tell of it in an event.

    Raises:
        UnknownId: there is no such job.
        TransitionRefused: its present state does not allow it.
    """
    if to is JobStatus.QUEUED:
        changes.setdefault("queued_at", time.time())
    note = None if message is None else NewEvent(message=message, created_at=time.time(), level=level)
    return store.jobs.transition(job_id, to, expected=sources(to), note=note, **changes)


def pause(store: Store, job_id: str) -> JobRecord:
    """Keep a queued job from running, or stop a running one after it has saved a checkpoint.

    Raises:
        UnknownId: there is no such job.
        TransitionRefused: it is neither queued nor running.
    """
    return move(store, job_id, JobStatus.PAUSED, message="Job paused by request")


def resume(store: Store, job_id: str) -> JobRecord:
    """Queue a paused job again; it goes on from its latest checkpoint.

    Raises:
        UnknownId: there is no such job.
        TransitionRefused: it is not paused, or its last attempt is still saving.
    """
    note = NewEvent(message="Job queued again by request", created_at=time.time())
    return store.jobs.transition(
        job_id, JobStatus.QUEUED, expected=[JobStatus.PAUSED], note=note, only_idle=True, queued_at=time.time()
    )


def fail(store: Store, job_id: str, *, code: str, message: str, param: str | None = None) -> JobRecord:
    """End a job that has no open attempt as failed, with the error that its owner reads."""
    return move(
        store,
        job_id,
        JobStatus.FAILED,
        message=message,
        level="error",
        error_code=code,
        error_message=message,
        error_param=param,
    )
