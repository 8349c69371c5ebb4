"""Evaluation of a run in progress: when what is measured, which weights do better, and one real launch."""

from types import SimpleNamespace

import pytest

from trainer import checkpoint, events
from trainer.evaluation.during_training import Scores, tasks_due
from trainer.job_dir import CheckpointName, JobDir, write_json_atomically
from trainer.resolve import resolve
from trainer.spec import CheckpointSpec, EvaluationSpec

METRIC = "validation/cross_entropy"


def test_the_lower_cross_entropy_is_the_better():
    scores = Scores(step=1, raw={METRIC: 0.5, "validation/top1": 0.8}, ema={METRIC: 0.4, "validation/top1": 0.7})
    assert scores.better_weights(METRIC) == "ema"
    assert scores.better_weights("validation/top1") == "raw"
    assert scores.by_record_field(METRIC)["metrics"] == scores.ema
    assert Scores(step=1, raw={METRIC: 0.5}).better_weights(METRIC) == "raw"
    assert Scores(step=1, raw={METRIC: 0.5}, ema={METRIC: 0.5}).better_weights(METRIC) == "raw"


def test_the_blend_is_recorded_and_ranks_nothing():
    scores = Scores(step=1, raw={METRIC: 0.5}, wise_ft={METRIC: 0.1})
    fields = scores.by_record_field(METRIC)
    assert fields["metrics"] == {METRIC: 0.5}
    assert fields["wise_ft_metrics"] == {METRIC: 0.1}


def test_the_best_checkpoint_has_the_lowest_cross_entropy(tmp_path):
    job = JobDir(tmp_path)
    spec = resolve(spec={"model": "attune-tiny-32", "data": {"train": "pairs.csv"}})
    names = []
    for step, loss in ((1, 0.9), (2, 0.3), (3, 0.6), (4, 0.8)):
        names.append(CheckpointName(step, 1))
        record = checkpoint.CheckpointRecord(step=step, attempt=1, world_size=1, metrics={METRIC: loss}, spec=spec)
        write_json_atomically(job.checkpoint(names[-1]) / "checkpoint.json", record)
    assert checkpoint.best(job, metric=METRIC) == names[1]
    removed = checkpoint.superseded(job, spec=CheckpointSpec(keep_latest=1, keep_best=2), metric=METRIC)
    assert removed == [names[0]]


@pytest.mark.parametrize(("wanted", "step"), [("auto", 2), ("raw", 3), ("ema", 1)])
def test_checkpoints_are_ranked_by_the_weights_that_are_exported(tmp_path, wanted, step):
    job, metric = JobDir(tmp_path), "validation/top1"
    spec = resolve(spec={"model": "attune-tiny-32", "data": {"train": "pairs.csv"}})
    names = []
    for number, (raw, ema) in enumerate(((0.3, 0.8), (0.9, 0.2), (0.95, 0.1)), start=1):
        if wanted == "auto" and number == 3:
            raw = 0.5
        scores = Scores(step=number, raw={metric: raw}, ema={metric: ema})
        names.append(CheckpointName(number, 1))
        fields = scores.by_record_field(metric, wanted=wanted)
        record = checkpoint.CheckpointRecord(step=number, attempt=1, world_size=1, spec=spec, **fields)
        write_json_atomically(job.checkpoint(names[-1]) / "checkpoint.json", record)
    assert checkpoint.best(job, metric=metric) == names[step - 1]
    removed = checkpoint.superseded(job, spec=CheckpointSpec(keep_latest=1, keep_best=1), metric=metric)
    assert removed == [name for name in names[:2] if name.step != step]


def test_before_the_first_step_the_average_scores_as_the_raw_weights():
    scores = Scores(step=0, raw={METRIC: 0.5})
    assert scores.by_record_field(METRIC, wanted="ema")["metrics"] == {METRIC: 0.5}
    assert scores.of("ema") == {METRIC: 0.5}
    assert Scores(step=1, raw={METRIC: 0.5}).by_record_field(METRIC, wanted="ema")["metrics"] == {}


def due(step, *, every_steps=10, **fields):
    """Tasks at a step of a run of 45 steps, 20 an epoch."""
    spec = SimpleNamespace(
        evaluation=EvaluationSpec(every_steps=every_steps, **fields), checkpoint=CheckpointSpec(every_steps=None)
    )
    return tasks_due(
        SimpleNamespace(spec=spec, steps_per_epoch=20, schedule=SimpleNamespace(total_steps=45)), step=step
    )


def test_each_task_has_its_own_pace():
    pace = {"zero_shot_every": 1, "retrieval_every": 2, "linear_probe_every": 3}
    found = {step: set(due(step, **pace)) - {"classification"} for step in (0, 10, 20, 30, 40, 45)}
    everything = {"zero_shot", "retrieval", "linear_probe"}
    assert found == {
        0: everything,
        10: {"zero_shot"},
        20: {"zero_shot", "retrieval"},
        30: {"zero_shot", "linear_probe"},
        40: {"zero_shot", "retrieval"},
        45: everything,
    }


def test_what_is_never_wanted_is_never_due():
    for step in (0, 10, 45):
        assert "linear_probe" not in due(step)
        assert "retrieval" not in due(step, retrieval_every=0)
    assert "linear_probe" in due(20, every_steps=None, linear_probe_every=1)  # at the end of an epoch
    assert "linear_probe" not in due(20, every_steps=None, linear_probe_every=2)


@pytest.mark.slow
def test_a_job_is_measured_as_asked(launch, digits_spec):
    settings = (
        "optim.ema_decay=null", "optim.lr=0.002", "evaluation.wise_ft_alpha=0.5", "evaluation.linear_probe_every=2",
        "evaluation.before_training=true", "evaluation.every_steps=5", "checkpoint.every_steps=5",
        f"checkpoint.metric={METRIC}", "checkpoint.at_start=true", "checkpoint.keep_latest=1",
    )  # fmt: skip
    overrides = [word for setting in settings for word in ("--set", setting)]
    run = launch("job", "--spec", str(digits_spec), *overrides)
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    read, _ = events.read_events(run.job.attempt(1).events)
    found = {(event.step, event.task, event.weights): event for event in read if event.type == "evaluation"}
    assert set(found) == {
        (0, "zero_shot", "raw"),
        (0, "linear_probe", "raw"),
        (5, "zero_shot", "raw"),
        (5, "zero_shot", "wise_ft"),
        *((10, task, weights) for task in ("zero_shot", "linear_probe") for weights in ("raw", "wise_ft")),
    }
    losses = {step: found[step, "zero_shot", "raw"].metrics["cross_entropy"] for step in (0, 5, 10)}
    assert found[10, "zero_shot", "wise_ft"].metrics["cross_entropy"] not in (losses[0], losses[10])
    assert found[10, "linear_probe", "raw"].metrics["linear_probe_top1"] > 0.2  # ten classes
    best = min(losses, key=losses.get)
    kept = {name.step for name in run.job.published_checkpoints()}
    assert kept == {10, best}
    (exported,) = (event for event in read if event.type == "exported")
    assert exported.metrics[METRIC] == losses[best]
