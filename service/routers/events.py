"""Events of a job: a page of them, or a stream of server-sent events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from service.dependencies import After, Closing, TheJob, TheSettings, TheStore
from service.routers.jobs import NO_JOB
from service.schemas.base import Page
from service.schemas.events import JobEvent
from service.streams import EventStream

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])


@router.get(
    "/{job_id}/events",
    response_model=Page[JobEvent],
    responses={**NO_JOB, 200: {"content": {"text/event-stream": {}}}},
)
def list_events(
    job: TheJob,
    store: TheStore,
    settings: TheSettings,
    closing: Closing,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    stream: Annotated[bool, Query(description="Send server-sent events, as with `Accept: text/event-stream`.")] = False,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response | Page[JobEvent]:
    """The job's events, newest first.

    As server-sent events: oldest first, from after `Last-Event-ID` (or `after`), each with its id, as they happen,
    until the job has ended; the last one is called `done` and carries the job's status.
    """
    if stream or "text/event-stream" in accept:
        events = EventStream(
            store,
            job.id,
            after=last_event_id or after,
            poll_s=settings.stream_poll_s,
            heartbeat_s=settings.sse_heartbeat_s,
            closing=closing,
        )
        return StreamingResponse(events.stream(), media_type="text/event-stream", headers=EventStream.HEADERS)
    records, has_more = store.events.list(job.id, after=after, limit=limit)
    return Page[JobEvent](data=[JobEvent.from_record(record) for record in records], has_more=has_more)
