"""The queue: who waits and why, another place in it, and a job's priority and limits."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query

from service.dependencies import After, TheAdmin, TheCaller, TheJob, TheRunner, TheStore, find_job
from service.errors import Conflict, Forbidden, InvalidRequest
from service.jobs.scheduling import waiting
from service.routers.jobs import NO_JOB
from service.schemas.base import ErrorAnswer, Page
from service.schemas.jobs import Job
from service.schemas.queue import JobChange, QueueMove, QueuePlace
from service.security import Caller
from service.store.records import JobRecord, JobStatus, UnknownId
from service.store.store import Store

router = APIRouter(tags=["queue"])

NOT_QUEUED: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "It does not wait."}}


@router.get("/v1/queue", responses=NO_JOB)
def list_queue(
    store: TheStore,
    runner: TheRunner,
    caller: TheCaller,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    all_projects: Annotated[bool, Query(description="Of every project; for operators.")] = False,
) -> Page[QueuePlace]:
    """Jobs that wait for devices, in the order in which they are looked at, with why each of them waits."""
    if all_projects and not caller.is_operator:
        raise Forbidden("all_projects is for operators: administrators of the project `default`", param="all_projects")
    state, plan = runner.scheduler.preview()
    places = waiting.places(state, plan, viewer=None if all_projects else caller.project_id)
    start = 0
    if after is not None:
        start = next((i + 1 for i, place in enumerate(places) if place.job_id == after), 0)
        if start == 0:
            raise UnknownId("waiting job", after)
    shown = [QueuePlace.of(place) for place in places[start : start + limit]]
    return Page[QueuePlace](data=shown, has_more=len(places) > start + limit)


@router.get("/v1/queue/{job_id}", responses={**NO_JOB, **NOT_QUEUED})
def retrieve_place(job: TheJob, store: TheStore, runner: TheRunner) -> QueuePlace:
    """Where one job stands, and why it waits."""
    if job.visible_status is not JobStatus.QUEUED:
        raise Conflict(f"job {job.id} is {job.visible_status} and does not wait for devices")
    state, plan = runner.scheduler.preview()
    found = (place for place in waiting.places(state, plan, viewer=job.project_id) if place.job_id == job.id)
    return QueuePlace.of(next(found, None) or waiting.far_back(job, store.queue))


@router.post("/v1/queue/reorder", responses={**NO_JOB, **NOT_QUEUED})
def move_job(body: QueueMove, store: TheStore, runner: TheRunner, caller: TheAdmin) -> QueuePlace:
    """Put a waiting job elsewhere among those of its project and priority."""
    for id in filter(None, (body.job_id, body.before)):
        find_job(store, id, project=caller.project_id)
    moved = store.queue.move(body.job_id, before=body.before, to_back=body.to == "back")
    runner.wake()
    return retrieve_place(moved, store, runner)


@router.patch(
    "/v1/fine_tuning/jobs/{job_id}",
    tags=["fine-tuning jobs"],
    responses={**NO_JOB, 409: {"model": ErrorAnswer, "description": "It has ended."}},
)
def change_job(body: JobChange, job: TheJob, store: TheStore, runner: TheRunner, caller: TheCaller) -> Job:
    """Change the priority or the limits of a job that has not ended."""
    changes = _changes(body, job, store, caller)
    record = store.queue.change(job.id, **changes) if changes else job
    runner.wake()
    return Job.from_record(record, attempts=store.attempts.list(job.id))


def _changes(body: JobChange, job: JobRecord, store: Store, caller: Caller) -> dict[str, Any]:
    given = {name: getattr(body, name) for name in body.model_fields_set}
    for name in ("priority", "preemptible"):
        if name in given and given[name] is None:
            raise InvalidRequest(f"{name} cannot be null", param=name)
    project = store.projects.get(job.project_id)
    highest = 100 if project is None or caller.is_operator else project.max_priority
    if given.get("priority", 0) > highest:
        message = f"priority {given['priority']} is more than the {highest} that project {job.project_id} may ask for"
        raise InvalidRequest(message, param="priority")
    if "deadline" in given:
        given["deadline_at"] = given.pop("deadline")
        if given["deadline_at"] is not None and given["deadline_at"] <= time.time():
            raise InvalidRequest(f"deadline {body.deadline} is over; give a Unix time to come", param="deadline")
    return given
