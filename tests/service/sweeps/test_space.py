import pytest
from pydantic import ValidationError

from service.schemas.sweeps import Parameter, SweepCreate
from service.sweeps.space import grid_point, key_of, num_trials, random_point, with_point

JOB = {"model": "ViT-B-32", "recipe": "flyp", "training_file": "/photos"}


def refusal(**fields):
    with pytest.raises(ValidationError) as caught:
        SweepCreate(job=JOB, **fields)
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ({}, "give `values`, or `min` and `max`"),
        ({"values": [1, 2], "min": 0}, "not both"),
        ({"values": [1, 1]}, "1 is given twice"),
        ({"values": []}, "at least 1 item"),
        ({"min": 2, "max": 1}, "min must be less than max, got 2 and 1"),
        ({"min": 0, "max": 1, "log": True}, "min must be more than 0, got 0"),
        ({"min": 0, "max": 1, "step": 0}, "step must be more than 0"),
        ({"min": 1, "max": 2, "step": 0.5, "log": True}, "exclude each other"),
        ({"min": 0.5, "max": 2, "integer": True}, "whole numbers"),
        ({"min": 0, "max": float("inf")}, "finite"),
        ({"min": 0}, "give `values`, or `min` and `max`"),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_its_name(parameter, words):
    text = refusal(parameters={"optim.lr": parameter}, max_trials=3)
    assert "parameters.optim.lr" in text
    assert words in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "something to vary"),
        ({"parameters": {"optim.lr": {"min": 1, "max": 2}}}, "max_trials"),
        ({"parameters": {"optim.lr": {"min": 1, "max": 2}}, "method": "grid"}, "parameters.optim.lr: a grid needs"),
        ({"parameters": {"seed": {"values": [1]}}, "method": "grid", "max_trials": 1}, "every combination"),
        ({"parameters": {"seed": {"values": [1]}}, "max_trials": 1, "metric": "validation/top11"}, "Did you mean top1"),
        ({"parameters": {"a": {"values": [1]}, "a.b": {"values": [1]}}, "max_trials": 1}, "lies inside of it"),
        ({"trials": []}, "at least one"),
        ({"trials": [{"seed": 1}, {"seed": 1}]}, "given twice"),
        ({"trials": [{"seed": 1}], "method": "bayesian"}, "not chosen"),
    ],
)
def test_a_search_that_cannot_be_is_refused(fields, words):
    assert words in refusal(**fields)


def test_a_grid_takes_every_combination_once():
    request = SweepCreate(
        job=JOB,
        method="grid",
        parameters={"optim.lr": {"min": 0.1, "max": 0.3, "step": 0.1}, "optim.betas": {"values": [[0.9, 0.9], [0, 0]]}},
    )
    points = [grid_point(request.parameters, number) for number in range(num_trials(request))]
    assert [point["optim.lr"] for point in points] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert len({key_of(point) for point in points}) == 6
    assert list(points[0]) == ["optim.lr", "optim.betas"]


def test_points_by_chance_are_the_same_for_the_same_seed_and_lie_within():
    parameters = {"lr": Parameter(min=1e-6, max=1e-2, log=True), "n": Parameter(min=1, max=8, integer=True)}
    points = [random_point(parameters, seed=3, number=i, known=()) for i in range(300)]
    assert points[7] == random_point(parameters, seed=3, number=7, known=())
    assert points[7] != random_point(parameters, seed=4, number=7, known=())
    assert all(1e-6 <= p["lr"] <= 1e-2 and isinstance(p["n"], int) for p in points)
    assert {p["n"] for p in points} == set(range(1, 9))
    small = sum(p["lr"] < 1e-4 for p in points)
    assert 120 < small < 180, "half of the decades lie below 1e-4"


def test_no_point_is_drawn_twice_while_there_are_others():
    parameters, known = {"n": Parameter(values=[1, 2, 3, 4])}, set()
    for number in range(4):
        known.add(key_of(random_point(parameters, seed=0, number=number, known=known)))
    assert len(known) == 4


def test_a_discrete_space_has_no_more_trials_than_points():
    values = {"n": {"values": [1, 2]}, "m": {"min": 1, "max": 3, "step": 1, "integer": True}}
    assert num_trials(SweepCreate(job=JOB, parameters=values, max_trials=100)) == 6


def test_a_point_goes_where_its_fields_lie():
    spec = {"model": "ViT-B-32", "optim": {"lr": 1, "eps": 2}}
    made = with_point(spec, {"optim.lr": 3, "model.precision": "bf16", "seed": 4})
    assert made == {"model": {"name": "ViT-B-32", "precision": "bf16"}, "optim": {"lr": 3, "eps": 2}, "seed": 4}
    assert spec["optim"]["lr"] == 1
