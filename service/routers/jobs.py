"""Fine-tuning jobs: create, list, retrieve, cancel, pause, resume; their checkpoints and logs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import StreamingResponse

from service.dependencies import After, Closing, MetadataFilter, TheCaller, TheJob, TheRunner, TheSettings, TheStore
from service.jobs import lifecycle
from service.jobs.places import Places
from service.jobs.submission import submit
from service.schemas.base import ErrorAnswer, Page
from service.schemas.checkpoints import Checkpoint, CheckpointPage
from service.schemas.job_request import EXAMPLES, JobCreate
from service.schemas.jobs import Job
from service.streams import LogFollower, read_log

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])

_METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Only jobs that carry these notes: `metadata[project]=catalogue`.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
NO_JOB: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such job."}}


@router.post("", responses={400: {"model": ErrorAnswer, "description": "The spec cannot be made; see `problems`."}})
def create_job(
    body: Annotated[JobCreate, Body(openapi_examples=EXAMPLES)],
    store: TheStore,
    runner: TheRunner,
    settings: TheSettings,
    caller: TheCaller,
) -> Job:
    """Submit a job. It is checked at once, its data before any training, and then it waits for devices."""
    record = submit(
        store,
        jobs_dir=settings.jobs_dir,
        capacity=runner.capacity(),
        weights_dir=settings.weights_dir,
        places=Places.of(settings, store, project=caller.project_id),
        partial_spec=body.partial_spec(),
        suffix=body.suffix,
        project=caller.project_id,
        created_by=caller.key_id,
    )
    runner.wake()
    return Job.from_record(record, attempts=[])


@router.get("", openapi_extra={"parameters": [_METADATA_PARAMETER]})
def list_jobs(
    store: TheStore,
    caller: TheCaller,
    metadata: MetadataFilter,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[Job]:
    """Jobs, newest first."""
    records, has_more = store.jobs.list(project=caller.project_id, after=after, limit=limit, metadata=metadata)
    return Page[Job](data=[Job.from_record(record) for record in records], has_more=has_more)


@router.get("/{job_id}", responses=NO_JOB)
def retrieve_job(job: TheJob, store: TheStore) -> Job:
    """One job, with its attempts."""
    return Job.from_record(job, attempts=store.attempts.list(job.id))


@router.post("/{job_id}/cancel", responses={**NO_JOB, 409: {"model": ErrorAnswer, "description": "It has ended."}})
def cancel_job(job: TheJob, store: TheStore, runner: TheRunner) -> Job:
    """Cancel a job that has not ended. Its processes get time to save a checkpoint."""
    record = store.jobs.request_cancel(job.id)
    runner.wake()
    return Job.from_record(record, attempts=store.attempts.list(job.id))


@router.post(
    "/{job_id}/pause", responses={**NO_JOB, 409: {"model": ErrorAnswer, "description": "It neither waits nor runs."}}
)
def pause_job(job: TheJob, store: TheStore, runner: TheRunner) -> Job:
    """Keep a queued job from starting, or stop a running one after it has saved a checkpoint. It frees its devices."""
    record = lifecycle.pause(store, job.id)
    runner.wake()
    return Job.from_record(record, attempts=store.attempts.list(job.id))


@router.post("/{job_id}/resume", responses={**NO_JOB, 409: {"model": ErrorAnswer, "description": "It is not paused."}})
def resume_job(job: TheJob, store: TheStore, runner: TheRunner) -> Job:
    """Queue a paused job again; it goes on from its latest checkpoint."""
    record = lifecycle.resume(store, job.id)
    runner.wake()
    return Job.from_record(record, attempts=store.attempts.list(job.id))


@router.get("/{job_id}/checkpoints", responses=NO_JOB)
def list_checkpoints(
    job: TheJob, store: TheStore, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> CheckpointPage:
    """The job's checkpoints that are still there, newest first."""
    records, has_more = store.checkpoints.list(job.id, after=after, limit=limit)
    return CheckpointPage.of([Checkpoint.from_record(record) for record in records], has_more=has_more)


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
