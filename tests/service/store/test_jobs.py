from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from service.store.records import (
    TERMINAL,
    AlreadyExists,
    JobRecord,
    JobStatus,
    TransitionRefused,
    UnknownId,
)
from service.store.store import Store

NewJob = Callable[..., JobRecord]


def test_a_job_comes_back_as_it_was_stored(store: Store, new_job: NewJob) -> None:
    job = new_job(spec={"optim": {"lr": 1e-5}}, suffix="ümlaut", seed=2**40, metadata={'a"b': "c"}, recipe="flyp")
    assert store.jobs.get(job.id) == job
    assert store.jobs.get("ftjob-none") is None
    with pytest.raises(AlreadyExists, match=job.id):
        new_job(id=job.id)


def test_creation_is_the_first_event(store: Store, new_job: NewJob) -> None:
    job = new_job()
    (event,) = store.events.since(job.id)
    assert (event.seq, event.message) == (1, f"Created fine-tuning job {job.id}")


def test_pages_hold_each_job_once_newest_first(store: Store, new_job: NewJob) -> None:
    made = [new_job(created_at=1000.0).id for _ in range(7)]  # in one second, as a burst is
    seen: list[str] = []
    more = True
    while more:
        page, more = store.jobs.list(after=seen[-1] if seen else None, limit=3)
        seen += [job.id for job in page]
    assert seen == made[::-1]


def test_has_more_is_false_on_a_page_that_is_just_full(store: Store, new_job: NewJob) -> None:
    for _ in range(2):
        new_job()
    assert store.jobs.list(limit=2)[1] is False
    assert store.jobs.list(limit=1)[1] is True


def test_an_unknown_cursor_is_refused(store: Store) -> None:
    with pytest.raises(UnknownId, match="ftjob-none"):
        store.jobs.list(after="ftjob-none")


def test_lists_filter_by_all_metadata_given(store: Store, new_job: NewJob) -> None:
    both = new_job(metadata={"team": "birds", 'odd "key"': "x"})
    new_job(metadata={"team": "birds"})
    new_job(metadata={"team": "fish", 'odd "key"': "x"})
    page, _ = store.jobs.list(metadata={"team": "birds", 'odd "key"': "x"})
    assert [job.id for job in page] == [both.id]
    assert store.jobs.list(metadata={"nothing": "x"}) == ([], False)


def test_with_status_is_in_order_of_creation(store: Store, new_job: NewJob) -> None:
    late, early = new_job(created_at=20.0), new_job(created_at=10.0)
    new_job(created_at=5.0, status=JobStatus.RUNNING)
    assert [job.id for job in store.jobs.with_status(JobStatus.QUEUED)] == [early.id, late.id]


def test_a_transition_needs_one_of_the_expected_states(store: Store, new_job: NewJob) -> None:
    job = new_job()
    with pytest.raises(TransitionRefused, match="is queued and cannot become succeeded"):
        store.jobs.transition(job.id, JobStatus.SUCCEEDED, expected=[JobStatus.RUNNING])
    moved = store.jobs.transition(job.id, JobStatus.RUNNING, expected=[JobStatus.QUEUED], devices_wanted=2)
    assert (moved.status, moved.devices_wanted) == (JobStatus.RUNNING, 2)
    with pytest.raises(UnknownId):
        store.jobs.transition("ftjob-none", JobStatus.RUNNING, expected=[JobStatus.QUEUED])


@pytest.mark.parametrize("end", TERMINAL)
def test_terminal_states_absorb_whatever_is_expected(store: Store, new_job: NewJob, end: JobStatus) -> None:
    job = new_job()
    ended = store.jobs.transition(job.id, end, expected=list(JobStatus))
    assert ended.finished_at is not None
    for to in JobStatus:
        with pytest.raises(TransitionRefused):
            store.jobs.transition(job.id, to, expected=list(JobStatus))
    with pytest.raises(TransitionRefused):
        store.jobs.request_cancel(job.id)
    assert store.jobs.get(job.id) == ended


def test_a_cancelled_job_shows_it_at_once_and_becomes_nothing_else(store: Store, new_job: NewJob) -> None:
    job = new_job(status=JobStatus.RUNNING)
    assert store.jobs.request_cancel(job.id).visible_status is JobStatus.CANCELLED
    assert store.jobs.request_cancel(job.id).status is JobStatus.RUNNING
    with pytest.raises(TransitionRefused, match="is cancelled"):
        store.jobs.transition(job.id, JobStatus.SUCCEEDED, expected=[JobStatus.RUNNING])
    store.jobs.transition(job.id, JobStatus.CANCELLED, expected=[JobStatus.RUNNING])


def test_update_does_not_go_around_transitions(store: Store, new_job: NewJob) -> None:
    job = new_job()
    assert store.jobs.update(job.id, estimated_finish=12.5).estimated_finish == 12.5
    with pytest.raises(ValueError, match="transition"):
        store.jobs.update(job.id, status=JobStatus.SUCCEEDED)


RACER = """
import sys
from service.store.records import JobStatus, TransitionRefused
from service.store.store import Store
store = Store(sys.argv[1])
sys.stdin.readline()
won = []
for job_id in sys.argv[2:]:
    try:
        store.attempts.begin(job_id, placement=[], resume=False, expected=[JobStatus.QUEUED], message="mine")
        won.append(job_id)
    except TransitionRefused:
        pass
print(" ".join(won))
"""


def test_two_processes_race_for_jobs_and_each_goes_to_one(store: Store, empty_url: str, new_job: NewJob) -> None:
    ids = [new_job().id for _ in range(25)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, empty_url, *ids], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [racer.communicate("go\n")[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(answers[0] + answers[1]) == sorted(ids)
    assert all(len(store.attempts.list(job_id)) == 1 for job_id in ids)


def test_pages_of_jobs_with_several_notes_keep_their_order(store: Store, new_job: Callable[..., JobRecord]) -> None:
    made = [new_job(metadata={"team": "birds", "run": str(number % 2)}) for number in range(6)]
    new_job(metadata={"team": "cars", "run": "0"})
    wanted = {"team": "birds", "run": "0"}
    first, more = store.jobs.list(metadata=wanted, limit=2)
    assert ([job.id for job in first], more) == ([made[4].id, made[2].id], True)
    rest, more = store.jobs.list(metadata=wanted, limit=2, after=first[-1].id, project="default")
    assert ([job.id for job in rest], more) == ([made[0].id], False)
