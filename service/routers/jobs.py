"""Fine-tuning jobs: create, list, retrieve, cancel, pause, resume; their logs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.answers import answered, read
from service.audit_trail import change_is_noted, record_of_change
from service.conditions import CHANGED, NOT_MODIFIED, TheConditions
from service.dependencies import (
    After,
    Closing,
    JobId,
    MetadataFilter,
    TheCaller,
    TheJob,
    ThePlanner,
    TheRunner,
    TheSettings,
    TheStore,
    find_job,
)
from service.idempotency import IDEMPOTENT, ChosenId, IdempotentRoute, TheChosenId
from service.jobs import lifecycle
from service.jobs.places.rules import Places
from service.jobs.submission import submit
from service.routers.estimate import NO_ESTIMATE, estimate_of
from service.schemas.base import ErrorAnswer, Page
from service.schemas.estimates import Estimate, EstimateCreate
from service.schemas.job_request import EXAMPLES, JobCreate
from service.schemas.jobs import Job
from service.security import Caller
from service.store.records import JobRecord
from service.store.store import Store
from service.streams import LogFollower, read_log

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"], route_class=IdempotentRoute)

_METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Only jobs that carry these notes: `metadata[project]=catalogue`.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
_SHORT_PAGE = 50
"""Longer ones keep other requests waiting for more than some milliseconds."""
NO_JOB: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such job."}}


@router.post(
    "",
    response_model=Job | Estimate,
    responses={
        **NO_ESTIMATE,
        400: {"model": ErrorAnswer, "description": "The spec cannot be made; see `problems`."},
        409: {"model": ErrorAnswer, "description": "The first request under this key is still being worked on."},
    },
    dependencies=[IDEMPOTENT],
)
async def create_job(
    body: Annotated[JobCreate, Body(openapi_examples=EXAMPLES)],
    request: Request,
    planner: ThePlanner,
    caller: TheCaller,
    chosen: TheChosenId,
    dry_run: Annotated[bool, Query(description="Only check the job, and answer what it would take.")] = False,
) -> Response | Estimate:
    """Submit a job. It is checked at once, its data before any training, and then it waits for devices."""
    if dry_run:
        asked = EstimateCreate(**{name: getattr(body, name) for name in body.model_fields_set})
        return await estimate_of(asked, request=request, planner=planner, caller=caller, runnable=True)
    return await run_in_threadpool(_create, body, request, caller, chosen)


def _create(body: JobCreate, request: Request, caller: Caller, chosen: ChosenId) -> Response:
    state, job_id = request.app.state, chosen.new("ftjob")
    already = state.store.jobs.get(job_id) if chosen.may_be_taken else None
    if already is not None:  # made under the same Idempotency-Key by a service that died before it could answer
        change_is_noted(request)
        return answered(Job.from_record(already, attempts=[]))
    record = submit(
        state.store,
        jobs_dir=state.settings.jobs_dir,
        capacity=state.runner.capacity(),
        weights_dir=state.settings.weights_dir,
        places=Places.of(state.settings, state.store, project=caller.project_id),
        partial_spec=state.files.with_paths(body.partial_spec(), project=caller.project_id),
        suffix=body.suffix,
        project=caller.project_id,
        created_by=caller.key_id,
        job_id=job_id,
        audit=record_of_change(request, target=job_id),
    )
    change_is_noted(request)
    state.runner.wake()
    return answered(Job.from_record(record, attempts=[]))


@router.get("", response_model=Page[Job], openapi_extra={"parameters": [_METADATA_PARAMETER]})
async def list_jobs(
    store: TheStore,
    caller: TheCaller,
    metadata: MetadataFilter,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Jobs, newest first."""

    def find() -> Response:
        records, has_more = store.jobs.list(project=caller.project_id, after=after, limit=limit, metadata=metadata)
        return answered(Page[Job](data=[Job.from_record(record) for record in records], has_more=has_more))

    return await read(store, find, is_short=limit <= _SHORT_PAGE and len(metadata) <= 1)


@router.get("/{job_id}", response_model=Job, responses={**NO_JOB, **NOT_MODIFIED})
async def retrieve_job(job_id: JobId, store: TheStore, caller: TheCaller, conditions: TheConditions) -> Response:
    """One job, with its attempts."""

    def find() -> Response:
        return conditions.answer(_with_attempts(find_job(store, job_id, project=caller.project_id), store))

    return await read(store, find)


@router.post(
    "/{job_id}/cancel",
    responses={**NO_JOB, **CHANGED, 409: {"model": ErrorAnswer, "description": "It has ended."}},
)
def cancel_job(job: TheJob, store: TheStore, runner: TheRunner, conditions: TheConditions) -> Job:
    """Cancel a job that has not ended. Its processes get time to save a checkpoint."""
    conditions.require(_with_attempts(job, store))
    record = store.jobs.request_cancel(job.id)
    runner.wake()
    return _with_attempts(record, store)


@router.post(
    "/{job_id}/pause",
    responses={**NO_JOB, **CHANGED, 409: {"model": ErrorAnswer, "description": "It neither waits nor runs."}},
)
def pause_job(job: TheJob, store: TheStore, runner: TheRunner, conditions: TheConditions) -> Job:
    """Keep a queued job from starting, or stop a running one after it has saved a checkpoint. It frees its devices."""
    conditions.require(_with_attempts(job, store))
    record = lifecycle.pause(store, job.id)
    runner.wake()
    return _with_attempts(record, store)


@router.post(
    "/{job_id}/resume",
    responses={**NO_JOB, **CHANGED, 409: {"model": ErrorAnswer, "description": "It is not paused."}},
)
def resume_job(job: TheJob, store: TheStore, runner: TheRunner, conditions: TheConditions) -> Job:
    """Queue a paused job again; it goes on from its latest checkpoint."""
    conditions.require(_with_attempts(job, store))
    record = lifecycle.resume(store, job.id)
    runner.wake()
    return _with_attempts(record, store)


@router.get("/{job_id}/logs", response_class=Response, responses={**NO_JOB, 200: {"content": {"text/plain": {}}}})
def read_logs(
    job: TheJob,
    store: TheStore,
    settings: TheSettings,
    closing: Closing,
    attempt: Annotated[int | None, Query(ge=1, description="Number of the attempt; by default the latest.")] = None,
    follow: Annotated[bool, Query(description="Go on sending until the job has ended.")] = False,
) -> Response:
    """What all ranks of an attempt wrote, as plain text; before the first attempt, what the data check wrote."""
    if follow:
        lines = LogFollower(store, job, attempt=attempt, poll_s=settings.stream_poll_s, closing=closing)
        return StreamingResponse(lines.stream(), media_type="text/plain; charset=utf-8")
    return StreamingResponse(read_log(job, attempt=attempt), media_type="text/plain; charset=utf-8")


def _with_attempts(job: JobRecord, store: Store) -> Job:
    return Job.from_record(job, attempts=store.attempts.list(job.id))
