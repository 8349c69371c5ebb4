from __future__ import annotations

from typing import Any

import pytest

from service.jobs.scheduler import devices_wanted, plan
from service.launchers.base import Capacity
from service.store.records import JobRecord

GPUS = Capacity("gpu", (0, 1, 2, 3))
CPU = Capacity("cpu", (0, 1))


def job(name: str, devices: int | str, **parallel: Any) -> JobRecord:
    spec = {
        "parallel": {"devices": devices, "nodes": 1, **parallel},
        "batch": {"global_size": 96, "micro_size": "auto"},
    }
    return JobRecord(id=name, spec=spec, model="m", job_dir="/j", created_at=1.0)


def granted(queue: list[JobRecord], *, capacity: Capacity = GPUS, taken: set[int] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    return {grant.job.id: grant.devices for grant in plan(queue, capacity=capacity, taken=taken).grants}


def test_devices_are_handed_out_in_order_and_never_twice() -> None:
    assert granted([job("a", 1), job("b", 2), job("c", 1)]) == {"a": (0,), "b": (1, 2), "c": (3,)}


def test_a_gang_starts_whole_or_not_at_all_and_holds_back_the_rest() -> None:
    assert granted([job("wide", 3), job("narrow", 1)], taken={0, 2}) == {}
    assert granted([job("fits", 1), job("wide", 3), job("narrow", 1)], taken={0}) == {"fits": (1,)}


def test_auto_takes_all_gpus_or_one_process() -> None:
    assert devices_wanted(job("a", "auto").spec, GPUS) == 4
    assert devices_wanted(job("a", "auto").spec, CPU) == 1


def test_impossible_jobs_are_refused_and_block_nobody() -> None:
    decided = plan([job("big", 8), job("far", 1, nodes=2), job("ok", 2)], capacity=GPUS, taken=())
    assert [grant.job.id for grant in decided.grants] == ["ok"]
    assert [(r.job.id, r.param) for r in decided.refusals] == [("big", "parallel.devices"), ("far", "parallel.nodes")]
    assert decided.refusals[0].message == "parallel.devices is 8, but this machine has 4 GPUs; use at most 4"
    assert "parallel.nodes is 2" in decided.refusals[1].message


def test_a_batch_that_all_gpus_cannot_share_is_refused() -> None:
    (refusal,) = plan([job("a", "auto")], capacity=Capacity("gpu", tuple(range(5))), taken=()).refusals
    assert (refusal.code, refusal.param) == ("bad_spec", "batch.global_size")
    assert "96 is not divisible by 5 devices" in refusal.message


@pytest.mark.parametrize(("count", "words"), [(1, "1 GPU;"), (0, "0 GPUs;")])
def test_the_message_counts_in_english(count: int, words: str) -> None:
    (refusal,) = plan([job("a", 2)], capacity=Capacity("gpu", tuple(range(count))), taken=()).refusals
    assert words in refusal.message
