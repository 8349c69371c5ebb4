"""Sweeps: begin, list, retrieve, cancel, and their results."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response

from service.dependencies import After, TheCaller, TheStore
from service.errors import Conflict, NotFound
from service.idempotency import IDEMPOTENT, IdempotentRoute, TheChosenId
from service.schemas.base import ErrorAnswer
from service.schemas.pages import IdPage
from service.schemas.sweeps import Sweep, SweepCreate, SweepResults
from service.store.records import SweepRecord
from service.sweeps.checking import checked
from service.sweeps.results import as_table, listed, results, shown
from service.sweeps.submitting import Submitter

router = APIRouter(prefix="/v1/fine_tuning/sweeps", tags=["sweeps"], route_class=IdempotentRoute)

NO_SWEEP: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such sweep."}}
EXAMPLES: dict[str, Any] = {
    "random": {
        "summary": "Twenty trials by chance, the worse half stopped early",
        "value": {
            "job": {
                "recipe": "flyp",
                "training_file": "/data/flowers/train",
                "validation_file": "/data/flowers/validation",
            },
            "parameters": {
                "optim.lr": {"min": 1e-6, "max": 1e-4, "log": True},
                "batch.global_size": {"values": [64, 128]},
            },
            "method": "random",
            "max_trials": 20,
            "median_stopping": {"warmup_evaluations": 1},
        },
    }
}


def _sweep(sweep_id: Annotated[str, Path(description="`sweep-...`")], store: TheStore, caller: TheCaller) -> Any:
    record = store.sweeps.get(sweep_id)
    if record is None or record.project_id != caller.project_id:
        raise NotFound(f"there is no sweep {sweep_id!r}; GET /v1/fine_tuning/sweeps lists them", param="sweep_id")
    return record


TheSweep = Annotated[SweepRecord, Depends(_sweep)]


@router.post(
    "",
    responses={
        400: {"model": ErrorAnswer, "description": "A trial's spec cannot be made; see `problems`."},
        409: {"model": ErrorAnswer, "description": "The first request under this key is still being worked on."},
    },
    dependencies=[IDEMPOTENT],
)
def create_sweep(
    body: Annotated[SweepCreate, Body(openapi_examples=EXAMPLES)],
    store: TheStore,
    caller: TheCaller,
    request: Request,
    chosen: TheChosenId,
) -> Sweep:
    """Begin a sweep. Its first trial and the ends of every parameter are checked at once."""
    submitter: Submitter = request.app.state.sweep_submitter
    id = chosen.new("sweep")
    already = store.sweeps.get(id)
    if already is not None:  # made under the same Idempotency-Key by a service that died before it could answer
        return shown(store, already)
    settled = checked(body, draft=lambda asked, point: submitter.draft(asked, point, project=caller.project_id))
    record = SweepRecord(
        id=id,
        project_id=caller.project_id,
        created_by=caller.key_id,
        name=body.name,
        status="running",
        request=settled.model_dump(mode="json"),
        created_at=time.time(),
    )
    store.sweeps.create(record)
    request.app.state.sweeps.chore.wake()
    return shown(store, record)


@router.get("")
def list_sweeps(
    store: TheStore, caller: TheCaller, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> IdPage[Sweep]:
    """Sweeps, newest first."""
    records, has_more = store.sweeps.list(project=caller.project_id, after=after, limit=limit)
    return IdPage[Sweep].of(listed(store, records), has_more=has_more)


@router.get("/{sweep_id}", responses=NO_SWEEP)
def retrieve_sweep(sweep: TheSweep, store: TheStore) -> Sweep:
    """One sweep with its best trial so far."""
    return shown(store, sweep)


@router.post("/{sweep_id}/cancel", responses={**NO_SWEEP, 409: {"model": ErrorAnswer, "description": "It has ended."}})
def cancel_sweep(sweep: TheSweep, store: TheStore, request: Request) -> Sweep:
    """End a sweep that runs, and cancel its jobs that have not ended."""
    if not store.sweeps.end(sweep.id, "cancelled"):
        raise Conflict(f"sweep {sweep.id} is {sweep.status} and cannot be cancelled")
    request.app.state.sweeps.chore.wake()
    return shown(store, store.sweeps.get(sweep.id) or sweep)


@router.get(
    "/{sweep_id}/results",
    response_model=SweepResults,
    responses={**NO_SWEEP, 200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def read_results(
    sweep: TheSweep,
    store: TheStore,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    format: Annotated[
        Literal["json", "csv"] | None, Query(description="By default what `Accept` says, or JSON.")
    ] = None,
) -> Any:
    """The results as a table of a row a trial."""
    found = results(store, sweep)
    wants_csv = format == "csv" or (format is None and (accept or "").split(",")[0].strip().startswith("text/csv"))
    if not wants_csv:
        return found
    named = {"Content-Disposition": f'attachment; filename="{sweep.id}.csv"'}
    return Response(as_table(found).to_csv(), media_type="text/csv", headers=named)
