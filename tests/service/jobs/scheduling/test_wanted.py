from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.jobs.scheduling.wanted import Refusal, columns_of, fewer, refuse, settle
from service.launchers.base import Capacity, NodeShare
from service.store.records import JobRecord
from trainer.resolve import resolve

GPUS = Capacity.of_this_machine("gpu", (0, 1, 2, 3))
CPU = Capacity.of_this_machine("cpu", (0, 1))


def job(name: str, devices: int | str, *, min_devices: int | None = None, **parallel: Any) -> JobRecord:
    partial = {
        "parallel": {"devices": devices, **parallel},
        "batch": {"global_size": 96},
        "scheduling": {"min_devices": min_devices},
    }
    spec = resolve(recipe="flyp", spec=partial, runnable=False)
    values = spec.model_dump(mode="json")
    return JobRecord(id=name, spec=values, model="m", job_dir="/j", created_at=1.0, **columns_of(spec))


def refused(job: JobRecord, capacity: Capacity = GPUS, **limits: Any) -> Refusal:
    refusal = refuse(job, capacity, **limits)
    assert refusal is not None
    return refusal


def machines(*sizes: int, may_grow: bool = False) -> Capacity:
    shares = tuple(NodeShare(f"n{i}", tuple(range(size))) for i, size in enumerate(sizes))
    return Capacity("gpu", shares, may_grow=may_grow)


def test_auto_takes_all_gpus_or_one_process() -> None:
    assert settle(None, nodes=1, capacity=GPUS) == 4
    assert settle(None, nodes=1, capacity=CPU) == 1
    assert settle(None, nodes=2, capacity=machines(8, 4, 2)) == 4
    assert settle(None, nodes=1, capacity=GPUS, max_devices=3) == 3


def test_what_the_machine_can_never_run_is_refused_by_field_value_and_what_is_there() -> None:
    big, far = refused(job("big", 8)), refused(job("far", 1, nodes=2))
    assert (big.code, big.param) == ("not_enough_devices", "parallel.devices")
    assert big.message == "parallel.devices is 8, but this machine has 4 GPUs; use at most 4"
    assert far.param == "parallel.nodes"
    assert "parallel.nodes is 2" in far.message
    assert refuse(job("ok", 4), GPUS) is None


def test_where_machines_come_and_go_a_large_job_waits() -> None:
    assert refuse(job("big", 8), machines(4, may_grow=True)) is None
    assert "4 and 2 GPUs" in refused(job("big", 8), machines(4, 2)).message


def test_more_than_the_project_may_hold_is_refused() -> None:
    assert "may hold 2 at once" in refused(job("x", 4), max_devices=2).message
    assert refuse(job("x", "auto"), GPUS, max_devices=2) is None


def test_a_batch_that_all_gpus_cannot_share_is_refused() -> None:
    uneven = refused(job("a", "auto"), Capacity.of_this_machine("gpu", tuple(range(5))))
    assert (uneven.code, uneven.param) == ("bad_spec", "batch.global_size")
    assert "96 is not divisible by 5 devices" in uneven.message


def test_a_spec_of_another_version_is_refused() -> None:
    stale = refused(replace(job("a", 1), spec={**job("a", 1).spec, "schema_version": 99}))
    assert (stale.code, stale.param) == ("bad_spec", "schema_version")


def test_a_job_that_has_run_goes_on_with_the_most_devices_that_are_left() -> None:
    ran = replace(job("x", 4, nodes=2, min_devices=2), num_attempts=1)
    assert fewer(ran, devices=4, capacity=machines(4, 3)) == (2, 3)
    assert fewer(ran, devices=4, capacity=machines(4)) == (1, 4)
    assert fewer(ran, devices=4, capacity=machines(1)) is None
    assert fewer(ran, devices=4, capacity=machines(4, 4)) is None
    assert fewer(replace(ran, num_attempts=0), devices=4, capacity=machines(4)) is None
    assert refuse(ran, machines(4)) is None


@pytest.mark.parametrize(("count", "words"), [(1, "1 GPU;"), (0, "0 GPUs;")])
def test_the_message_counts_in_english(count: int, words: str) -> None:
    assert words in refused(job("a", 2), Capacity.of_this_machine("gpu", tuple(range(count)))).message
