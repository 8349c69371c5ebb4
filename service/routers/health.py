"""Whether the service lives, whether it can work, and what it counts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service.dependencies import TheMetrics, TheReadiness, TheSettings
from service.metrics import CONTENT_TYPE
from service.schemas.health import Alive, Readiness

router = APIRouter(tags=["health"])

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "A part does not work."}}


@router.get("/healthz")
async def alive() -> Alive:
    """The process answers; nothing else is looked at."""
    return Alive()


@router.get("/readyz", responses=NOT_READY)
async def ready(readiness: TheReadiness, response: Response) -> Readiness:
    """Whether each part of the service does its work: it is tried, within a time limit for each."""
    parts = await readiness.parts()
    everything = all(part.ok for part in parts.values())
    response.status_code = 200 if everything else 503
    return Readiness(status="ready" if everything else "not_ready", parts=parts)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request, counted: TheMetrics, settings: TheSettings) -> Response:
    """Prometheus metrics, of all projects: where other machines reach the service, for an operator's key only."""
    if not settings.metrics_are_open:
        request.state.caller.require_operator()
    return Response(counted.render(), media_type=CONTENT_TYPE)
