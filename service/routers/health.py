"""Whether the service lives, whether it can work, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from service.dependencies import TheGateway, TheMetrics, TheRunner, TheSettings, TheStore
from service.jobs.runner import JobRunner
from service.metrics import CONTENT_TYPE
from service.schemas.health import Alive, PartState, Readiness
from service.store.store import Store

router = APIRouter(tags=["health"])

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "A part does not work."}}


@router.get("/healthz")
async def alive() -> Alive:
    """The process answers; nothing else is looked at."""
    return Alive()


@router.get("/readyz", responses=NOT_READY)
def ready(store: TheStore, runner: TheRunner, gateway: TheGateway, response: Response) -> Readiness:
    """Whether each part of the service does its work."""
    parts = {
        "store": _look(lambda: _describe_store(store)),
        "jobs": _look(lambda: _describe_runner(runner)),
        "inference": _look(lambda: f"{len(gateway.pool.workers)} models loaded"),
    }
    everything = all(part.ok for part in parts.values())
    response.status_code = 200 if everything else 503
    return Readiness(status="ready" if everything else "not_ready", parts=parts)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request, counted: TheMetrics, settings: TheSettings) -> Response:
    """Prometheus metrics, of all projects: where other machines reach the service, for an operator's key only."""
    if not settings.metrics_are_open:
        request.state.caller.require_operator()
    return Response(counted.render(), media_type=CONTENT_TYPE)


def _describe_store(store: Store) -> str:
    store.check()
    return "answers"


def _describe_runner(runner: JobRunner) -> str:
    if not runner.is_alive:
        raise RuntimeError("the job runner's thread has ended; restart the service")
    capacity = runner.capacity()
    if capacity.problem is not None:
        raise RuntimeError(capacity.problem)
    machines = f" on {len(capacity.nodes)} machines" if capacity.may_grow else ""
    return f"{capacity.count} {capacity.kind} devices{machines}{capacity.note and f'; {capacity.note}'}"


def _look(part: Callable[[], str]) -> PartState:
    try:
        return PartState(ok=True, detail=part())
    except Exception as error:  # whatever it is, it is what this endpoint is there to tell
        return PartState(ok=False, detail=f"{type(error).__name__}: {error}")
