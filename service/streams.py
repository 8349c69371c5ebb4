"""What flows: a job's events as server-sent events, and its log.

Streams only look at the store and the job folder, in a thread and for a moment at a time: a slow or lost reader
holds no database connection and delays nobody.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from service.errors import NotFound
from service.schemas.events import JobEvent
from service.store.records import AttemptStatus, EventRecord, JobRecord, UnknownId
from service.store.store import Store
from trainer.job_dir import JobDir

_PAGE = 500
_CHUNK_BYTES = 256 * 1024
_RETRY_MS = 1000


class EventStream:
    """A job's events in the server-sent events format (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    Events carry no name, so that a browser's `onmessage` gets them; the last, `done`, has the job's status instead
    of an event. Comments keep the connection alive.
    """

    HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

    def __init__(
        self,
        store: Store,
        job_id: str,
        *,
        after: str | None,
        poll_s: float,
        heartbeat_s: float,
        closing: threading.Event,
    ) -> None:
        """Begin behind the event `after`, or with the first; break off when `closing` is set.

        Raises:
            UnknownId: the job has no such event.
        """
        self._store = store
        self._job_id = job_id
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._closing = closing
        self._seq = self._number_of(after) if after else 0

    async def stream(self) -> AsyncIterator[str]:
        """The stream's text, until the job has ended and all is sent."""
        yield f"retry: {_RETRY_MS}\n\n"
        quiet_since = time.monotonic()
        while not self._closing.is_set():
            ended, events = await asyncio.to_thread(self._look)
            for event in events:
                yield f"id: {event.id}\ndata: {JobEvent.from_record(event).model_dump_json()}\n\n"
            if events:
                quiet_since, self._seq = time.monotonic(), events[-1].seq
                continue
            if ended is not None:
                yield f"event: done\ndata: {json.dumps({'id': ended.id, 'status': ended.status})}\n\n"
                return
            if time.monotonic() - quiet_since >= self._heartbeat_s:
                yield ": still here\n\n"
                quiet_since = time.monotonic()
            await asyncio.sleep(self._poll_s)

    def _look(self) -> tuple[JobRecord | None, Sequence[EventRecord]]:
        """The job if it has ended, and its next events. In this order: nothing follows a job's end."""
        job = self._store.jobs.get(self._job_id)
        events = self._store.events.since(self._job_id, self._seq, limit=_PAGE)
        return (job if job and job.status.is_terminal else None), events

    def _number_of(self, event_id: str) -> int:
        event = self._store.events.get(event_id)
        if event is None or event.job_id != self._job_id:
            raise UnknownId("event", event_id)
        return event.seq


def read_log(job: JobRecord, *, attempt: int | None = None) -> Iterator[bytes]:
    """The log of the latest attempt, or of `attempt`, as it is now; before the first attempt, the data check's.

    Raises:
        NotFound: there is no such attempt.
    """
    return _chunks(_log_path(job, attempt))


class LogFollower:
    """A log as it grows: of one attempt until that has ended, or of the latest and all after it until the job has."""

    def __init__(
        self, store: Store, job: JobRecord, *, attempt: int | None, poll_s: float, closing: threading.Event
    ) -> None:
        """Begin at the start of the log that `read_log` would give; break off when `closing` is set.

        Raises:
            NotFound: there is no such attempt.
        """
        self._store = store
        self._job = job
        self._attempt = attempt
        self._poll_s = poll_s
        self._closing = closing
        self._path = _log_path(job, attempt)
        self._offset = 0

    async def stream(self) -> AsyncIterator[bytes]:
        """The log's bytes."""
        while not self._closing.is_set():
            ended, chunk = await asyncio.to_thread(self._look)
            if chunk:
                yield chunk
            elif ended:
                return
            else:
                await asyncio.sleep(self._poll_s)

    def _look(self) -> tuple[bool, bytes]:
        """Whether all is written, and the next piece. In this order: nothing is written after the end."""
        ended = self._has_ended()
        latest = _log_path(self._job, self._attempt)
        chunk = _read(self._path, self._offset)
        self._offset += len(chunk)
        if not chunk and latest != self._path:
            self._path, self._offset = latest, 0
            return False, b""
        return ended, chunk

    def _has_ended(self) -> bool:
        if self._attempt is not None:
            attempts = self._store.attempts.list(self._job.id)
            return any(a.number == self._attempt and a.status == AttemptStatus.ENDED for a in attempts)
        job = self._store.jobs.get(self._job.id)
        return job is None or job.status.is_terminal


def _log_path(job: JobRecord, attempt: int | None) -> Path:
    job_dir = JobDir(Path(job.job_dir))
    attempts = job_dir.attempts()
    if attempt is None:
        return attempts[-1].log if attempts else job_dir.preflight_log
    for found in attempts:
        if found.number == attempt:
            return found.log
    raise NotFound(f"job {job.id} has no attempt {attempt}; it has had {len(attempts)}", param="attempt")


def _chunks(path: Path) -> Iterator[bytes]:
    offset = 0
    while chunk := _read(path, offset):
        yield chunk
        offset += len(chunk)


def _read(path: Path, offset: int) -> bytes:
    """The next piece of a log; empty if there is none yet."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_CHUNK_BYTES)
