from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from service.jobs import lifecycle
from service.store.records import TERMINAL, JobStatus, TransitionRefused


def test_every_state_is_in_the_table_and_terminal_ones_lead_nowhere() -> None:
    assert set(lifecycle.TRANSITIONS) == set(JobStatus)
    assert {status for status, followers in lifecycle.TRANSITIONS.items() if not followers} == set(TERMINAL)


def test_every_state_can_end_and_running_comes_only_from_the_queue() -> None:
    for status in set(JobStatus) - set(TERMINAL):
        assert {JobStatus.FAILED, JobStatus.CANCELLED} <= lifecycle.TRANSITIONS[status]
    assert lifecycle.sources(JobStatus.RUNNING) == {JobStatus.QUEUED}
    assert lifecycle.sources(JobStatus.VALIDATING_FILES) == frozenset()


@pytest.mark.parametrize(("start", "to"), list(product(JobStatus, JobStatus)))
def test_the_store_allows_what_the_table_allows(world: Any, start: JobStatus, to: JobStatus) -> None:
    job = world.submit(status=start)
    if to in lifecycle.TRANSITIONS[start]:
        assert lifecycle.move(world.store, job.id, to).status is to
        return
    with pytest.raises(TransitionRefused, match=f"is {start} and cannot become {to}"):
        lifecycle.move(world.store, job.id, to)
    assert world.job(job).status is start


def test_a_failure_is_an_event_and_an_error(world: Any) -> None:
    job = world.submit()
    failed = lifecycle.fail(world.store, job.id, code="bad_data", message="no images", param="data.train")
    assert (failed.error_code, failed.error_message, failed.error_param) == ("bad_data", "no images", "data.train")
    last = world.store.events.list(job.id, limit=1)[0][0]
    assert (last.level, last.message) == ("error", "no images")
