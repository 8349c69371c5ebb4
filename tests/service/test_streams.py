"""Event streams and logs, on a real store and real job folders."""

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest

from service.errors import NotFound
from service.store.records import AttemptEnd, EndReason, JobRecord, JobStatus, NewEvent, UnknownId
from service.store.store import Store
from service.streams import EventStream, LogFollower, read_log
from trainer.job_dir import JobDir


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/attune.db")
    store.upgrade()
    yield store
    store.close()


@pytest.fixture
def job(store, tmp_path) -> JobRecord:
    record = JobRecord(id="ftjob-1", spec={}, model="m", job_dir=str(tmp_path / "job"), created_at=1.0)
    return store.jobs.create(record)


def append(store, *messages):
    return store.events.append("ftjob-1", [NewEvent(message=m, created_at=time.time()) for m in messages])


def end(store, status=JobStatus.FAILED):
    store.jobs.transition("ftjob-1", status, expected=list(JobStatus))


def collect(stream, *, limit_s=10.0) -> str | bytes:
    async def run():
        async with asyncio.timeout(limit_s):
            return [chunk async for chunk in stream.stream()]

    chunks = asyncio.run(run())
    return (b"" if chunks and isinstance(chunks[0], bytes) else "").join(chunks)


def messages_in(text: str) -> list[str]:
    payloads = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    messages = [payload["message"] for payload in payloads if "message" in payload]
    return [message for message in messages if not message.startswith("Created")]  # the store's own first event


def events_of(store, *, after=None, heartbeat_s=60.0, closing=None) -> EventStream:
    closing = closing or threading.Event()
    return EventStream(store, "ftjob-1", after=after, poll_s=0.01, heartbeat_s=heartbeat_s, closing=closing)


def log_of(store, job, *, attempt=None, closing=None) -> LogFollower:
    return LogFollower(store, job, attempt=attempt, poll_s=0.01, closing=closing or threading.Event())


def test_a_finished_jobs_events_come_oldest_first_and_then_its_status(store, job):
    first, second = append(store, "one", "two")
    end(store)
    text = collect(events_of(store))
    assert messages_in(text) == ["one", "two"]
    assert text.index(f"id: {first.id}\n") < text.index(f"id: {second.id}\n")
    assert text.endswith('event: done\ndata: {"id": "ftjob-1", "status": "failed"}\n\n')


def test_a_stream_goes_on_after_the_last_event_seen(store, job):
    first, _ = append(store, "one", "two")
    end(store)
    assert messages_in(collect(events_of(store, after=first.id))) == ["two"]


def test_an_event_of_another_job_is_no_place_to_go_on_from(store, job):
    store.jobs.create(JobRecord(id="ftjob-2", spec={}, model="m", job_dir="", created_at=1.0))
    (other,) = store.events.append("ftjob-2", [NewEvent(message="x", created_at=1.0)])
    with pytest.raises(UnknownId, match=other.id):
        events_of(store, after=other.id)
    with pytest.raises(UnknownId, match="nonsense"):
        events_of(store, after="nonsense")


def test_events_that_come_while_the_stream_waits_are_sent_and_none_after_the_end_is_missed(store, job):
    def work():
        for i in range(50):
            append(store, f"step {i}")
        store.jobs.transition(
            "ftjob-1",
            JobStatus.CANCELLED,
            expected=list(JobStatus),
            note=NewEvent(message="the end", created_at=time.time()),
        )

    worker = threading.Thread(target=work)
    worker.start()
    text = collect(events_of(store))
    worker.join()
    assert messages_in(text) == [*(f"step {i}" for i in range(50)), "the end"]


def test_more_events_than_one_look_takes_all_arrive(store, job):
    append(store, *(str(i) for i in range(1203)))
    end(store)
    assert messages_in(collect(events_of(store))) == [str(i) for i in range(1203)]


def test_a_requested_cancellation_does_not_end_the_stream(store, job):
    store.jobs.request_cancel("ftjob-1")
    with pytest.raises(TimeoutError):
        collect(events_of(store), limit_s=0.3)


def test_a_quiet_stream_sends_comments(store, job):
    threading.Timer(0.5, end, [store]).start()
    text = collect(events_of(store, heartbeat_s=0.1))
    assert 2 <= text.count(": still here\n\n") <= 5


def test_streams_break_off_when_the_service_closes(store, job):
    append(store, "one")
    closing = threading.Event()
    threading.Timer(0.2, closing.set).start()
    assert "event: done" not in collect(events_of(store, closing=closing))
    assert not collect(log_of(store, job, closing=closing))


def test_a_message_with_line_breaks_stays_one_event(store, job):
    append(store, "one\ntwo\r\n\nthree")
    end(store)
    assert messages_in(collect(events_of(store))) == ["one\ntwo\r\n\nthree"]


def test_a_waiting_stream_holds_no_database_connection(store, job):
    async def run():
        streams = [asyncio.create_task(anext_after_first(events_of(store).stream())) for _ in range(40)]
        await asyncio.sleep(0.3)
        held = store.database.engine.pool.checkedout()
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        return held

    async def anext_after_first(stream):
        async for _ in stream:
            pass

    # 40 streams look every 10 ms; a few may be looking at this very moment, in as many threads.
    assert asyncio.run(run()) <= 8


def write_log(job, number, text):
    log = JobDir(job_dir_of(job)).attempt(number).log
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(text)


def job_dir_of(job) -> Path:
    return Path(job.job_dir)


def test_the_log_is_that_of_the_latest_attempt_unless_another_is_named(store, job):
    write_log(job, 1, b"first\n")
    write_log(job, 2, b"second \xff\n")
    assert b"".join(read_log(job)) == b"second \xff\n"
    assert b"".join(read_log(job, attempt=1)) == b"first\n"
    with pytest.raises(NotFound, match="no attempt 3; it has had 2"):
        read_log(job, attempt=3)


def test_before_the_first_attempt_the_log_is_that_of_the_data_check(store, job):
    assert b"".join(read_log(job)) == b""
    path = JobDir(job_dir_of(job)).preflight_log
    path.parent.mkdir(parents=True)
    path.write_bytes(b"reading\n")
    assert b"".join(read_log(job)) == b"reading\n"


def test_a_long_log_comes_whole(store, job):
    text = b"0123456789abcde\n" * 40_000
    write_log(job, 1, text)
    assert b"".join(read_log(job)) == text


def test_a_followed_log_goes_on_into_the_next_attempt_until_the_job_ends(store, job):
    write_log(job, 1, b"one\n")

    def work():
        for text in (b"two\n", b"three\n"):
            time.sleep(0.05)
            write_log(job, 1, text)
        time.sleep(0.05)
        write_log(job, 2, b"four\n")
        end(store)

    worker = threading.Thread(target=work)
    worker.start()
    text = collect(log_of(store, job))
    worker.join()
    assert text == b"one\ntwo\nthree\nfour\n"


def test_following_one_attempt_ends_with_it_though_the_job_goes_on(store, job):
    store.jobs.transition("ftjob-1", JobStatus.QUEUED, expected=list(JobStatus))
    begun = store.attempts.begin(
        "ftjob-1",
        placement=[{"node": "local", "devices": [0]}],
        resume=False,
        expected=[JobStatus.QUEUED],
        message="go",
    )
    write_log(job, 1, b"one\n")
    with pytest.raises(TimeoutError):
        collect(log_of(store, job, attempt=1), limit_s=0.2)
    crashed = AttemptEnd(reason=EndReason.CRASHED, message="it crashed")
    store.attempts.retry("ftjob-1", begun.number, crashed, message="again")
    write_log(job, 2, b"two\n")
    assert collect(log_of(store, job, attempt=1)) == b"one\n"
