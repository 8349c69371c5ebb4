from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.jobs.scheduler import Refusal, devices_wanted, plan, refuse
from service.launchers.base import Capacity
from service.store.records import JobRecord
from trainer.resolve import resolve
from trainer.spec import JobSpec

GPUS = Capacity.of_this_machine("gpu", (0, 1, 2, 3))
CPU = Capacity.of_this_machine("cpu", (0, 1))


def spec(devices: int | str, **parallel: Any) -> JobSpec:
    partial = {"parallel": {"devices": devices, **parallel}, "batch": {"global_size": 96}}
    return resolve(recipe="flyp", spec=partial, runnable=False)


def job(name: str, devices: int | str, **parallel: Any) -> JobRecord:
    values = spec(devices, **parallel).model_dump(mode="json")
    return JobRecord(id=name, spec=values, model="m", job_dir="/j", created_at=1.0)


def granted(queue: list[JobRecord], *, capacity: Capacity = GPUS, taken: set[int] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    held = {("local", device) for device in taken}
    grants = plan(queue, capacity=capacity, taken=held)
    return {grant.job.id: grant.placement[0].devices for grant in grants}


def refused(job: JobRecord, capacity: Capacity = GPUS) -> Refusal:
    refusal = refuse(job, capacity)
    assert refusal is not None
    return refusal


def test_devices_are_handed_out_in_order_and_never_twice() -> None:
    assert granted([job("a", 1), job("b", 2), job("c", 1)]) == {"a": (0,), "b": (1, 2), "c": (3,)}


def test_a_gang_starts_whole_or_not_at_all_and_holds_back_the_rest() -> None:
    assert granted([job("wide", 3), job("narrow", 1)], taken={0, 2}) == {}
    assert granted([job("fits", 1), job("wide", 3), job("narrow", 1)], taken={0}) == {"fits": (1,)}


def test_auto_takes_all_gpus_or_one_process() -> None:
    assert devices_wanted(spec("auto"), GPUS) == 4
    assert devices_wanted(spec("auto"), CPU) == 1


def test_what_the_machine_can_never_run_is_refused_by_field_value_and_what_is_there() -> None:
    big, far = refused(job("big", 8)), refused(job("far", 1, nodes=2))
    assert (big.code, big.param) == ("not_enough_devices", "parallel.devices")
    assert big.message == "parallel.devices is 8, but this machine has 4 GPUs; use at most 4"
    assert far.param == "parallel.nodes"
    assert "parallel.nodes is 2" in far.message
    assert refuse(job("ok", 4), GPUS) is None


def test_a_batch_that_all_gpus_cannot_share_is_refused() -> None:
    uneven = refused(job("a", "auto"), Capacity.of_this_machine("gpu", tuple(range(5))))
    assert (uneven.code, uneven.param) == ("bad_spec", "batch.global_size")
    assert "96 is not divisible by 5 devices" in uneven.message


def test_a_spec_of_another_version_is_refused_and_blocks_nobody() -> None:
    stale = refused(replace(job("a", 1), spec={**job("a", 1).spec, "schema_version": 99}))
    assert (stale.code, stale.param) == ("bad_spec", "schema_version")


@pytest.mark.parametrize(("count", "words"), [(1, "1 GPU;"), (0, "0 GPUs;")])
def test_the_message_counts_in_english(count: int, words: str) -> None:
    assert words in refused(job("a", 2), Capacity.of_this_machine("gpu", tuple(range(count)))).message
