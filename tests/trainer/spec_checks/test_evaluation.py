"""What a spec may ask of evaluation: each refusal names its field and what is allowed."""

import pytest

from trainer.resolve import SpecError, resolve
from trainer.spec_checks.metrics import METRICS, metric_named, shown

FOLDERS = {"train": "photos", "validation": "held-out"}
CAPTIONS = {"train": "pairs.csv", "validation": "held-out.csv"}


def spec_with(data, *, objective=None, **sections):
    spec = {"model": "attune-tiny-32", "data": data, **sections}
    return resolve(spec=spec if objective is None else {**spec, "objective": {"name": objective}})


def problem(*arguments, **options):
    with pytest.raises(SpecError) as refused:
        spec_with(*arguments, **options)
    return str(refused.value)


def test_every_metric_says_which_way_is_better():
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {"cross_entropy", "ece"}
    assert metric_named("validation/ece").merit(0.1) > metric_named("validation/ece").merit(0.2)
    assert metric_named("top1").merit(0.2) > metric_named("top1").merit(0.1)
    assert (shown("x/top1", 0.125), shown("x/cross_entropy", 0.125)) == ("12.50 %", "0.1250")


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("class_prompts", "validation/cross_entropy"),
        ("class_prompts", "validation/worst_class"),
        ("classification", "validation/ece"),
        ("contrastive", "validation/mean_recall"),
    ],
)
def test_checkpoints_are_ranked_by_what_is_measured(objective, metric):
    data = CAPTIONS if objective == "contrastive" else FOLDERS
    assert spec_with(data, objective=objective, checkpoint={"metric": metric}).checkpoint.metric == metric


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("classification", "validation/mean_recall"),  # a classifier has no texts
        ("class_prompts", "validation/knn_top1"),  # only a command measures it
        ("class_prompts", "validation/loss"),
        ("class_prompts", "elsewhere/top1"),
    ],
)
def test_checkpoints_are_not_ranked_by_what_is_not(objective, metric):
    said = problem(FOLDERS, objective=objective, checkpoint={"metric": metric})
    assert "checkpoint.metric" in said
    assert f"{metric!r} is not DATASET/METRIC with validation, and one of top1" in said


@pytest.mark.parametrize(
    ("data", "objective", "metric", "evaluation"),
    [
        (FOLDERS, "class_prompts", None, {"zero_shot_every": 0}),
        (FOLDERS, "class_prompts", "validation/cross_entropy", {"zero_shot_every": 0}),
        (CAPTIONS, "contrastive", None, {"retrieval_every": 0}),
        (FOLDERS, "class_prompts", "validation/linear_probe_top1", {"linear_probe_every": 0}),
    ],
)
def test_what_ranks_checkpoints_is_not_left_out(data, objective, metric, evaluation):
    said = problem(data, objective=objective, checkpoint={"metric": metric}, evaluation=evaluation)
    (field,) = evaluation
    assert f"evaluation.{field}" in said
    assert "must be at least 1" in said


def test_what_ranks_checkpoints_is_measured_where_one_is_saved():
    evaluation = {"zero_shot_every": 2, "every_steps": 10}
    said = problem(FOLDERS, objective="class_prompts", evaluation=evaluation)
    assert "set checkpoint.every_steps to a multiple of 2 x evaluation.every_steps" in said
    assert "would be saved where it is not measured" in problem(
        FOLDERS, objective="class_prompts", evaluation={"zero_shot_every": 2}
    )
    spec_with(FOLDERS, objective="class_prompts", evaluation=evaluation, checkpoint={"every_steps": 20})
    spec_with(FOLDERS, objective="class_prompts", evaluation={"retrieval_every": 2})  # ranks nothing here


def test_frequencies_of_what_is_never_measured_are_refused():
    said = problem(FOLDERS, objective="classification", evaluation={"zero_shot_every": 0})
    assert "is measured by its own classes; leave it at 1" in said
    said = problem(CAPTIONS, objective="contrastive", evaluation={"linear_probe_every": 1})
    assert "learns from the training data's labels" in said
    data = {"train": "photos", "validation": {"path": "pairs.csv"}}
    assert "is measured on labelled data" in problem(
        data, objective="contrastive", evaluation={"linear_probe_every": 1}
    )
    spec_with(FOLDERS, objective="classification", evaluation={"linear_probe_every": 1})
