"""What handlers take: the parts of the application, and records that must be there."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from service.errors import InvalidRequest, NotFound
from service.files.assembling import UploadAssembler
from service.files.library import FileLibrary
from service.inference.gateway import Gateway
from service.jobs.planning import Planner
from service.jobs.promotion import Promotions
from service.jobs.runner import JobRunner
from service.metrics import Metrics
from service.readiness import Readiness
from service.security import QUESTIONS, READING, Caller
from service.settings import Settings
from service.store.records import JobRecord, ModelRecord, Role
from service.store.store import Store
from trainer.resolve import near

_METADATA_FILTER = re.compile(r"metadata\[(.+)\]")


def _part(name: str) -> Callable[[Request], Awaitable[Any]]:
    # A coroutine: FastAPI would send a plain function to a thread, for each part of each request.
    async def part(request: Request) -> Any:
        return getattr(request.app.state, name)

    return part


TheStore = Annotated[Store, Depends(_part("store"))]
TheRunner = Annotated[JobRunner, Depends(_part("runner"))]
TheGateway = Annotated[Gateway, Depends(_part("gateway"))]
TheSettings = Annotated[Settings, Depends(_part("settings"))]
TheMetrics = Annotated[Metrics, Depends(_part("metrics"))]
TheReadiness = Annotated[Readiness, Depends(_part("readiness"))]
TheFiles = Annotated[FileLibrary, Depends(_part("files"))]
TheUploads = Annotated[UploadAssembler, Depends(_part("uploads"))]
ThePlanner = Annotated[Planner, Depends(_part("planner"))]
ThePromotions = Annotated[Promotions, Depends(_part("promotions"))]
Closing = Annotated[threading.Event, Depends(_part("closing"))]


async def _caller(request: Request) -> Caller:
    found: Caller = request.state.caller
    return found


TheCaller = Annotated[Caller, Depends(_caller)]
"""Who sent the request, as `service.doorkeeper` found."""


async def _allowed_caller(request: Request, caller: TheCaller) -> Caller:
    reads = request.method in READING or request.url.path in QUESTIONS
    caller.require(Role.VIEWER if reads else Role.MEMBER)
    return caller


AllowedCaller = Depends(_allowed_caller)
"""For whole routers: viewers read and ask models, members do the rest."""


async def _admin(caller: TheCaller) -> Caller:
    caller.require(Role.ADMIN)
    return caller


TheAdmin = Annotated[Caller, Depends(_admin)]
"""A caller who manages their project."""


async def _operator(caller: TheCaller) -> Caller:
    caller.require_operator()
    return caller


TheOperator = Annotated[Caller, Depends(_operator)]
"""A caller who looks after all projects."""


def find_job(store: Store, job_id: str, *, project: str) -> JobRecord:
    """The job.

    Raises:
        NotFound: there is none of this id in the project.
    """
    record = store.jobs.get(job_id)
    if record is None or record.project_id != project:
        raise NotFound(f"there is no fine-tuning job {job_id!r}; GET /v1/fine_tuning/jobs lists them", param="id")
    return record


def find_model(store: Store, name: str, *, project: str) -> ModelRecord:
    """The registered model.

    Raises:
        NotFound: there is none of this name in the project; near names are given.
    """
    record = store.models.get(name)
    if record is None or record.project_id != project:
        known = store.models.names(project=project)
        message = f"no model {name!r} is registered here.{near(name, known)} GET /v1/models lists them"
        raise NotFound(message, param="model", code="model_not_found")
    return record


JobId = Annotated[str, Path(description="`ftjob-...`")]


def _job(job_id: JobId, store: TheStore, caller: TheCaller) -> JobRecord:
    return find_job(store, job_id, project=caller.project_id)


async def _metadata_filter(request: Request) -> dict[str, str]:
    """`metadata[key]=value` query parameters, which OpenAPI calls a deep object and FastAPI has no parameter for."""
    matches = ((_METADATA_FILTER.fullmatch(name), value) for name, value in request.query_params.multi_items())
    found = [(match[1], value) for match, value in matches if match]
    if len(found) != len(dict(found)):
        raise InvalidRequest("give each metadata[KEY] once", param="metadata")
    return dict(found)


TheJob = Annotated[JobRecord, Depends(_job)]
MetadataFilter = Annotated[dict[str, str], Depends(_metadata_filter)]
After = Annotated[str | None, Query(description="Id of the last item of the page before.")]
