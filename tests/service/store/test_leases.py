"""Leases on work and on jobs, as several replicas take them from one database."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.store.records import AttemptEnd, EndReason, JobRecord, JobStatus, ProjectRecord
from service.store.store import Store

NewJob = Callable[..., JobRecord]
SHARE = {"node": "local", "devices": [0]}


def test_one_owner_at_a_time_renews_gives_back_or_runs_out(store: Store) -> None:
    token = store.leases.acquire("planner", owner="a", ttl_s=30)
    assert token is not None
    assert store.leases.acquire("planner", owner="b", ttl_s=30) is None
    assert store.leases.acquire("planner", owner="a", ttl_s=30) == token
    assert store.leases.holder("planner") == "a"
    store.leases.release("planner", owner="b")
    assert store.leases.holder("planner") == "a"
    store.leases.release("planner", owner="a")
    assert store.leases.acquire("planner", owner="b", ttl_s=0.05) not in (None, token)
    time.sleep(0.1)
    assert store.leases.holder("planner") is None
    assert store.leases.acquire("planner", owner="a", ttl_s=30) is not None


def test_what_a_dead_service_held_is_free_when_its_planning_is_taken_over(store: Store) -> None:
    for name, owner in (("planner", "dead"), ("webhooks", "dead"), ("sweeps", "alive")):
        assert store.leases.acquire(name, owner=owner, ttl_s=3600)
    store.leases.seize("planner", owner="next", ttl_s=30)
    assert store.leases.holder("planner") == "next"
    assert store.leases.acquire("webhooks", owner="next", ttl_s=30) is not None
    assert store.leases.acquire("sweeps", owner="next", ttl_s=30) is None


def test_of_many_that_ask_at_once_one_gets_it(empty_url: str, store: Store) -> None:
    stores = [Store(empty_url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        tokens = list(pool.map(lambda i: stores[i].leases.acquire("planner", owner=f"r{i}", ttl_s=30), range(6)))
    for each in stores:
        each.close()
    assert sum(token is not None for token in tokens) == 1


def test_replicas_are_seen_while_they_beat(store: Store) -> None:
    store.replicas.beat("a", host="one", pid=1)
    store.replicas.beat("b", host="two", pid=2)
    store.replicas.beat("a", host="one", pid=1)
    assert [replica.id for replica in store.replicas.seen_within(10)] == ["a", "b"]
    time.sleep(0.1)
    store.replicas.beat("b", host="two", pid=2)
    assert [replica.id for replica in store.replicas.seen_within(0.09)] == ["b"]
    store.replicas.forget("a")
    assert [replica.id for replica in store.replicas.seen_within(10)] == ["b"]


def claimed(store: Store, owner: str, **how: object) -> set[str]:
    given = {"lease_s": 30.0, "limit": 10, **how}
    return {job.id for job in store.jobs.claim(owner=owner, **given)}  # type: ignore[arg-type]


def test_only_jobs_that_need_somebody_are_claimed(store: Store, new_job: NewJob) -> None:
    checking = new_job(status=JobStatus.VALIDATING_FILES)
    new_job(status=JobStatus.QUEUED)
    new_job(status=JobStatus.PAUSED)
    new_job(status=JobStatus.SUCCEEDED)
    doomed = new_job(status=JobStatus.QUEUED, cancel_requested=True)
    saving = new_job(status=JobStatus.QUEUED)
    begun = store.attempts.begin(
        saving.id, placement=[SHARE], resume=False, expected=[JobStatus.QUEUED], message="started"
    )
    store.jobs.transition(saving.id, JobStatus.PAUSED, expected=[JobStatus.RUNNING])
    assert claimed(store, "a") == {checking.id, doomed.id, saving.id}
    store.attempts.finish(saving.id, begun.number, AttemptEnd(reason=EndReason.PAUSED, message="paused"), to=None)
    assert claimed(store, "a") == {checking.id, doomed.id}


def test_a_claim_holds_until_it_runs_out_and_can_be_given_back(store: Store, new_job: NewJob) -> None:
    job = new_job(status=JobStatus.VALIDATING_FILES)
    assert claimed(store, "a", lease_s=0.2) == {job.id}
    assert claimed(store, "b") == set()
    time.sleep(0.3)
    assert claimed(store, "b") == {job.id}
    assert claimed(store, "a") == set()
    store.jobs.release(owner="b")
    assert claimed(store, "a") == {job.id}
    assert claimed(store, "b", take_over=True) == {job.id}


def test_replicas_share_the_work_and_no_job_is_claimed_twice(empty_url: str, store: Store, new_job: NewJob) -> None:
    ids = {new_job(status=JobStatus.VALIDATING_FILES).id for _ in range(40)}
    stores = [Store(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: claimed(stores[i], f"r{i}", limit=10), range(4)))
    for each in stores:
        each.close()
    assert sum(map(len, found)) == len(set().union(*found))
    rest = claimed(store, "last", limit=100)
    assert set().union(rest, *found) == ids


@pytest.mark.parametrize("limit", [1, 3])
def test_new_claims_are_limited_and_held_ones_stay(store: Store, new_job: NewJob, limit: int) -> None:
    for _ in range(5):
        new_job(status=JobStatus.VALIDATING_FILES)
    assert len(claimed(store, "a", limit=limit)) == limit
    assert len(claimed(store, "a", limit=limit)) == min(5, 2 * limit)


def test_only_so_many_jobs_are_claimed_for_checking_as_can_be_checked(store: Store, new_job: NewJob) -> None:
    waiting = [new_job(status=JobStatus.VALIDATING_FILES) for _ in range(4)]
    doomed = new_job(status=JobStatus.VALIDATING_FILES, cancel_requested=True)
    assert claimed(store, "a", max_validating=2) == {waiting[0].id, waiting[1].id, doomed.id}
    assert claimed(store, "a", max_validating=2) == {waiting[0].id, waiting[1].id, doomed.id}
    assert claimed(store, "b", max_validating=2) == {waiting[2].id, waiting[3].id}
    store.jobs.transition(waiting[0].id, JobStatus.QUEUED, expected=[JobStatus.VALIDATING_FILES])
    waiting.append(new_job(status=JobStatus.VALIDATING_FILES))
    assert claimed(store, "a", max_validating=2) == {waiting[1].id, waiting[4].id, doomed.id}


def test_the_first_jobs_of_many_projects_are_claimed_a_few_at_a_time(store: Store, new_job: NewJob) -> None:
    for name in "pqrst":
        store.projects.create(ProjectRecord(id=name, name=name, created_at=0.0))
        new_job(status=JobStatus.VALIDATING_FILES, project_id=name)
    assert len(claimed(store, "a", limit=2, max_validating=0)) == 2
    assert len(claimed(store, "a", limit=2, max_validating=0)) == 4


def test_a_lease_that_is_kept_is_renewed_and_lost_with_its_time(store: Store) -> None:
    assert store.leases.keep("planner", owner="a", ttl_s=0.3)
    assert store.leases.keep("planner", owner="a", ttl_s=0.3)
    assert not store.leases.keep("planner", owner="b", ttl_s=30)
    time.sleep(0.4)
    assert store.leases.keep("planner", owner="b", ttl_s=30)
    assert not store.leases.keep("planner", owner="a", ttl_s=0.3)
    store.leases.release("planner", owner="b")
    assert store.leases.keep("planner", owner="a", ttl_s=30)
