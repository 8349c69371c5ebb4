"""What a job would take, before it is submitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.concurrency import run_in_threadpool

from service.dependencies import TheCaller, ThePlanner
from service.estimating.device_kind import device_kind
from service.estimating.estimate import estimate, expected_speed
from service.jobs.places.rules import Places
from service.jobs.planning import Planner
from service.jobs.scheduling.wanted import settle
from service.jobs.submission import draft
from service.schemas.base import ErrorAnswer
from service.schemas.estimates import Estimate, EstimateCreate
from service.schemas.job_request import EXAMPLES
from service.security import Caller
from trainer.spec import JobSpec

router = APIRouter(prefix="/v1/fine_tuning/estimate", tags=["fine-tuning jobs"])

NO_ESTIMATE: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The job cannot be run as it is described."},
    429: {"model": ErrorAnswer, "description": "Too many estimates are waiting."},
    503: {"model": ErrorAnswer, "description": "It took too long."},
}


@router.post("", responses=NO_ESTIMATE)
async def estimate_job(
    body: Annotated[EstimateCreate, Body(openapi_examples=EXAMPLES)],
    request: Request,
    planner: ThePlanner,
    caller: TheCaller,
) -> Estimate:
    """Memory by ZeRO stage, time, devices, and what `auto` comes to. Nothing is downloaded, and no device is taken."""
    return await estimate_of(body, request=request, planner=planner, caller=caller, runnable=False)


async def estimate_of(
    body: EstimateCreate, *, request: Request, planner: Planner, caller: Caller, runnable: bool
) -> Estimate:
    """The estimate of a job.

    Args:
        body: the job, and what is assumed.
        request: the request, for the parts of the application.
        planner: makes the plan.
        caller: whose files and models it may name.
        runnable: whether it must be complete, training data included.

    Raises:
        SpecError: the spec cannot be made.
        InvalidRequest: the job cannot be run as it is described.
    """
    state = request.app.state
    capacity = state.runner.capacity()
    job = await run_in_threadpool(
        lambda: draft(
            state.store,
            jobs_dir=state.settings.jobs_dir,
            capacity=capacity,
            weights_dir=state.settings.weights_dir,
            places=Places.of(state.settings, state.store, project=caller.project_id),
            partial_spec=state.files.with_paths(body.partial_spec(), project=caller.project_id),
            suffix=body.suffix,
            project=caller.project_id,
            runnable=runnable,
        )
    )
    spec = JobSpec.model_validate(job.spec)
    devices = settle(job.devices_per_node, nodes=job.nodes, capacity=capacity) * (
        spec.parallel.nodes if spec.parallel.devices == "auto" else 1
    )
    plan = await planner.plan(spec, devices=devices, num_train=body.num_train, num_classes=body.num_classes)
    device = await run_in_threadpool(device_kind, capacity, precision=spec.parallel.precision)
    if body.device_memory_bytes is not None:
        device = replace(device, memory_bytes=body.device_memory_bytes)
    speed = await run_in_threadpool(expected_speed, state.store, job, plan, device=device)
    return estimate(job, plan, capacity=capacity, device=device, speed=speed)
