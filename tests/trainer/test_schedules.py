import math

import pytest

from trainer.schedules import build_schedule, total_steps
from trainer.spec import ScheduleSpec


def test_warm_up_is_linear_and_ends_at_the_peak():
    schedule = build_schedule(ScheduleSpec(epochs=10, warmup_steps=500), peak_lr=1e-5, steps_per_epoch=2503)
    assert schedule.lr_at(0) == pytest.approx(2e-8)
    assert schedule.lr_at(499) == 1e-5


def test_cosine_follows_its_formula_and_ends_at_the_minimum():
    schedule = build_schedule(ScheduleSpec(epochs=1, min_lr=1e-6), peak_lr=1e-3, steps_per_epoch=100)
    for step in (0, 13, 50, 99):
        expected = 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * step / 100)) / 2
        assert schedule.lr_at(step) == pytest.approx(expected)


def test_constant_stays_at_the_peak():
    schedule = build_schedule(ScheduleSpec(max_steps=9, kind="constant"), peak_lr=0.1, steps_per_epoch=3)
    assert {schedule.lr_at(step) for step in range(9)} == {0.1}


def test_groups_get_their_share():
    groups = [{"lr_scale": 0.25}, {}]
    schedule = build_schedule(ScheduleSpec(max_steps=4, kind="constant"), peak_lr=0.8, steps_per_epoch=4)
    assert schedule.apply(groups, step=0) == 0.8
    assert [group["lr"] for group in groups] == [0.2, 0.8]


def test_the_smaller_of_epochs_and_steps_counts():
    assert total_steps(ScheduleSpec(epochs=2, max_steps=7), steps_per_epoch=5) == 7
    assert total_steps(ScheduleSpec(epochs=2, max_steps=70), steps_per_epoch=5) == 10
    assert total_steps(ScheduleSpec(epochs=0.1), steps_per_epoch=2) == 1


def test_a_warm_up_longer_than_the_job_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps 500 .* 20 steps"):
        build_schedule(ScheduleSpec(epochs=2, warmup_steps=500), peak_lr=1, steps_per_epoch=10)
