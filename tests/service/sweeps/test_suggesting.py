import pytest

from service.schemas.sweeps import SweepCreate
from service.sweeps.suggesting import Tried, next_point

optuna = pytest.importorskip("optuna")

JOB = {"model": "ViT-B-32", "recipe": "flyp", "training_file": "/photos"}
SPACE = {
    "optim.lr": {"min": 1e-6, "max": 1e-1, "log": True},
    "optim.weight_decay": {"min": 0.0, "max": 1.0},
    "schedule.name": {"values": ["cosine", "linear"]},
    "n": {"min": 1, "max": 32, "integer": True},
}


def search(metric="validation/top1", method="bayesian", seed=0):
    return SweepCreate(job=JOB, parameters=SPACE, method=method, max_trials=40, metric=metric, seed=seed)


def loss(point):
    """Least at lr 1e-3, cosine, 8."""
    from math import log10

    return (log10(point["optim.lr"]) + 3) ** 2 + (point["schedule.name"] != "cosine") + abs(point["n"] - 8) / 16


def run(request, value_of, num=40):
    tried = []
    for number in range(num):
        point = next_point(request, number=number, tried=tried)
        tried.append(Tried(point, "value", value_of(point)))
    return tried


def mean_loss_of_the_last(tried, num=15):
    return sum(loss(trial.parameters) for trial in tried[-num:]) / num


@pytest.mark.parametrize(("metric", "sign"), [("validation/top1", -1), ("validation/cross_entropy", 1)])
def test_bayesian_search_learns_which_way_the_metric_wants(metric, sign):
    learned = run(search(metric), lambda point: sign * loss(point))
    by_chance = run(search(metric, method="random"), lambda point: sign * loss(point))
    assert mean_loss_of_the_last(learned) < 0.6 * mean_loss_of_the_last(by_chance)


def test_the_same_trials_give_the_same_next_point_after_a_restart():
    request = search()
    tried = run(request, lambda point: -loss(point), num=12)
    tried += [Tried(tried[0].parameters, "running"), Tried(tried[1].parameters, "stopped", -3.0)]
    tried.append(Tried(tried[2].parameters, "nothing"))
    first = next_point(request, number=15, tried=tried)
    assert next_point(request, number=15, tried=tried) == first
    assert next_point(search(seed=9), number=15, tried=tried) != first
    assert isinstance(first["n"], int)


def test_trials_that_are_listed_come_in_their_order():
    request = SweepCreate(job=JOB, trials=[{"seed": 2}, {"seed": 1}])
    assert [next_point(request, number=i, tried=[])["seed"] for i in (0, 1)] == [2, 1]
