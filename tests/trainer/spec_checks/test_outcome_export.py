"""What an export cannot be, said where a spec is made."""

import pytest
from pydantic import ValidationError

from trainer.spec import JobSpec


def problems(**fields):
    """Messages by field."""
    try:
        JobSpec.model_validate({"model": "ViT-B-32", "objective": {"name": "classification"}, **fields})
    except ValidationError as error:
        return {".".join(str(part) for part in e["loc"]): e["msg"] for e in error.errors()}
    return {}


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_lies_on_the_line(alpha):
    for settings in ({"alpha": alpha}, {"alphas": [0.5, alpha]}):
        assert problems(export={"wise_ft": settings})
    assert problems(export={"wise_ft": {"alpha": 0.5, "alphas": [0, 1]}}) == {}


def test_the_best_point_needs_something_to_be_best_at():
    export = {"wise_ft": {"alpha": "best"}}
    assert "data.validation" in problems(export=export, data={"train": "a"})["export.wise_ft.alpha"]
    assert problems(export=export, data={"train": "a", "validation": "b"}) == {}
    by_metric = {"checkpoint": {"metric": "far/top1"}, "data": {"train": "a", "evaluate": {"far": "c"}}}
    assert problems(export=export, **by_metric) == {}
    assert problems(export=export) == {}  # a recipe, still without data


def test_points_need_something_to_be_measured_on():
    export = {"wise_ft": {"alphas": [0, 1]}}
    assert "data.evaluate" in problems(export=export, data={"train": "a"})["export.wise_ft.alphas"]
    assert problems(export=export, data={"train": "a", "evaluate": {"far": "c"}}) == {}
    assert problems(export={"wise_ft": {"alpha": 0.3}}, data={"train": "a"}) == {}


def test_settings_of_a_probe_need_a_probe():
    objective = {"name": "classification", "head": "fresh", "probe": {"max_iterations": 10}}
    assert "no probe with objective.head 'fresh'" in problems(objective=objective)["objective.probe.max_iterations"]
    assert problems(objective={**objective, "head": "probe"}) == {}


def test_nothing_is_held_out_beside_validation_data():
    objective = {"name": "classification", "head": "probe", "probe": {"held_out": 0.5}}
    found = problems(objective=objective, data={"train": "a", "validation": "b"})
    assert "data.validation" in found["objective.probe.held_out"]
    assert problems(objective=objective, data={"train": "a"}) == {}


def test_an_average_that_is_exported_is_evaluated_too():
    fields = {"export": {"weights": "ema"}, "optim": {"ema_decay": 0.9}, "evaluation": {"ema": False}}
    for data in ({"train": "a", "validation": "b"}, {"train": "a", "evaluate": {"far": "c"}}):
        assert "leave it at true" in problems(**fields, data=data)["evaluation.ema"]
        assert problems(**fields | {"evaluation": {}}, data=data) == {}
        assert problems(**fields | {"export": {"weights": "raw"}}, data=data) == {}
    assert problems(**fields, data={"train": "a"}) == {}
