import math

import numpy as np
import pytest

from trainer.schedules import build_schedule, peak_lr, total_steps
from trainer.spec import JobSpec, ScheduleSpec


def job(*, batch=256, compat=(), optim=None, **schedule):
    return JobSpec.model_validate(
        {
            "model": "ViT-B-32/openai",
            "optim": {"lr": 1e-5, **(optim or {})},
            "batch": {"global_size": batch},
            "schedule": schedule,
            "compat": compat,
        }
    )


def test_warm_up_is_linear_and_ends_at_the_peak():
    schedule = build_schedule(job(epochs=10, warmup_steps=500), steps_per_epoch=2503)
    assert schedule.lr_at(0) == pytest.approx(2e-8)
    assert schedule.lr_at(499) == 1e-5


def test_warm_up_from_zero_is_numpys_ramp():
    schedule = build_schedule(job(epochs=2, warmup_epochs=0.5, warmup_start="zero"), steps_per_epoch=26)
    assert schedule.warmup_steps == 13
    assert [schedule.lr_at(step) for step in range(13)] == np.linspace(0, 1e-5, 13).tolist()
    assert schedule.lr_at(13) == 1e-5


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_warm_up_from_zero_is_numpys_too(steps):
    schedule = build_schedule(job(warmup_steps=steps, warmup_start="zero"), steps_per_epoch=5)
    assert [schedule.lr_at(step) for step in range(steps)] == np.linspace(0, 1e-5, steps).tolist()


def test_cosine_follows_its_formula_and_nears_the_minimum():
    schedule = build_schedule(job(epochs=1, min_lr=1e-6, optim={"lr": 1e-3}), steps_per_epoch=100)
    for step in (0, 13, 50, 99):
        expected = 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * step / 100)) / 2
        assert schedule.lr_at(step) == pytest.approx(expected)


def test_a_cosine_by_epoch_is_constant_within_each():
    schedule = build_schedule(job(epochs=4, update="epoch", min_lr=1e-7), steps_per_epoch=5)
    rates = [schedule.lr_at(step) for step in range(20)]
    expected = [1e-7 + (1e-5 - 1e-7) * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert rates == pytest.approx(np.repeat(expected, 5))


def test_a_cosine_by_epoch_stays_at_the_peak_until_the_epoch_of_the_warm_up_ends():
    schedule = build_schedule(job(epochs=4, update="epoch", warmup_steps=7), steps_per_epoch=5)
    assert {schedule.lr_at(step) for step in (6, 7, 8, 9)} == {1e-5}
    assert schedule.lr_at(10) == schedule.lr_at(14) == pytest.approx(1e-5 * (1 + math.cos(math.pi * 3 / 13)) / 2)


def test_the_minimum_joins_the_cosine_as_in_flyp_if_asked():
    plain, flyp = (
        build_schedule(job(epochs=1, min_lr=1e-6, warmup_steps=2, compat=compat), steps_per_epoch=10)
        for compat in ((), ("flyp-min-lr",))
    )
    assert flyp.lr_at(1) == plain.lr_at(1) == plain.lr_at(2) == 1e-5
    assert flyp.lr_at(2) == pytest.approx(1.1e-5)
    assert flyp.lr_at(6) == pytest.approx(1e-5 / 2 + 1e-6)


def test_constant_stays_at_the_peak():
    schedule = build_schedule(job(max_steps=9, kind="constant", optim={"lr": 0.1}), steps_per_epoch=3)
    assert {schedule.lr_at(step) for step in range(9)} == {0.1}


def test_the_rate_grows_with_the_batch_it_is_meant_for():
    rates = [peak_lr(job(batch=size, optim={"lr_batch": 256})) for size in (128, 256, 800, 1792)]
    assert rates == [5e-6, 1e-5, 3.125e-5, 7e-5]
    assert build_schedule(job(batch=800, optim={"lr_batch": 256}), steps_per_epoch=1).lr_at(0) == 3.125e-5
    assert peak_lr(job(batch=1792)) == 1e-5


def test_groups_get_their_share():
    groups = [{"lr_scale": 0.25, "weight_decay": 0.1}, {}]
    schedule = build_schedule(job(max_steps=4, kind="constant", optim={"lr": 0.8}), steps_per_epoch=4)
    assert schedule.apply(groups, step=0) == 0.8
    assert [group["lr"] for group in groups] == [0.2, 0.8]
    assert groups[0]["weight_decay"] == 0.1


def test_weight_decay_follows_its_own_cosine_and_only_where_there_is_any():
    groups = [{"decays": True, "weight_decay": 0.05}, {"decays": False, "weight_decay": 0.0}]
    spec = job(epochs=2, warmup_steps=3, optim={"weight_decay": 0.05, "weight_decay_end": 0.2})
    schedule = build_schedule(spec, steps_per_epoch=4)
    for step in range(8):
        schedule.apply(groups, step=step)
        expected = 0.2 + (0.05 - 0.2) * (1 + math.cos(math.pi * step / 8)) / 2
        assert groups[0]["weight_decay"] == pytest.approx(expected)
        assert groups[1]["weight_decay"] == 0


def test_the_smaller_of_epochs_and_steps_counts():
    assert total_steps(ScheduleSpec(epochs=2, max_steps=7), steps_per_epoch=5) == 7
    assert total_steps(ScheduleSpec(epochs=2, max_steps=70), steps_per_epoch=5) == 10
    assert total_steps(ScheduleSpec(epochs=0.1), steps_per_epoch=2) == 1


@pytest.mark.parametrize(
    ("warmup", "words"),
    [
        ({"warmup_steps": 500}, r"warmup_steps 500 .* 20 steps; .*schedule\.epochs"),
        ({"warmup_epochs": 1.9}, r"warmup_epochs 1\.9 \(19 steps\) .* 7 steps; .*schedule\.max_steps"),
    ],
)
def test_a_warm_up_longer_than_the_job_is_refused(warmup, words):
    limit = 7 if "warmup_epochs" in warmup else None
    with pytest.raises(ValueError, match=words):
        build_schedule(job(epochs=2, max_steps=limit, **warmup), steps_per_epoch=10)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"warmup_steps": 5, "warmup_epochs": 1}, "schedule.warmup_epochs"),
        ({"epochs": 2, "warmup_epochs": 3}, "schedule.warmup_epochs"),
        ({"min_lr": 2e-5}, "schedule.min_lr"),
        ({"min_lr": 8e-6, "optim": {"lr_batch": 512}}, "schedule.min_lr"),
        ({"kind": "constant", "update": "epoch"}, "schedule.update"),
        ({"kind": "constant", "compat": ("flyp-min-lr",)}, "compat"),
    ],
)
def test_impossible_schedules_are_refused_with_the_field(change, field):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        job(**change)
