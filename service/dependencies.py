"""What handlers take: the parts of the application, and records that must be there."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from service.errors import InvalidRequest, NotFound
from service.inference.gateway import Gateway
from service.jobs.runner import JobRunner
from service.metrics import Metrics
from service.settings import Settings
from service.store.records import JobRecord, ModelRecord
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
Closing = Annotated[threading.Event, Depends(_part("closing"))]


def find_job(store: Store, job_id: str) -> JobRecord:
    """The job.

    Raises:
        NotFound: there is none of this id.
    """
    record = store.jobs.get(job_id)
    if record is None:
        raise NotFound(f"there is no fine-tuning job {job_id!r}; GET /v1/fine_tuning/jobs lists them", param="id")
    return record


def find_model(store: Store, name: str) -> ModelRecord:
    """The registered model.

    Raises:
        NotFound: there is none of this name; near names are given.
    """
    record = store.models.get(name)
    if record is None:
        known = [model.id for model in store.models.list()]
        message = f"no model {name!r} is registered here.{near(name, known)} GET /v1/models lists them"
        raise NotFound(message, param="model", code="model_not_found")
    return record


def _job(job_id: Annotated[str, Path(description="`ftjob-...`")], store: TheStore) -> JobRecord:
    return find_job(store, job_id)


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
