from service.schemas.sweeps import MedianStopping
from service.sweeps.curves import Curve, Evaluated
from service.sweeps.stopping import why_stop

RULE = MedianStopping(warmup_evaluations=1, min_trials=3)


def curve(*values, steps_between=10, total=100):
    points = [Evaluated((i + 1) * steps_between, value) for i, value in enumerate(values)]
    return Curve(total_steps=total, points=points)


def why(mine, others, metric="validation/top1", rule=RULE):
    return why_stop(mine, others, metric=metric, rule=rule)


GOOD = [curve(0.3, 0.6), curve(0.4, 0.7), curve(0.5, 0.8)]


def test_a_trial_below_the_median_at_that_point_is_stopped_and_told_why():
    sentence = why(curve(0.5, 0.65), GOOD)
    assert "step 20" in sentence
    assert "65.00 %" in sentence
    assert "70.00 %" in sentence
    assert why(curve(0.5, 0.7), GOOD) is None


def test_what_others_reached_later_does_not_count():
    assert why(curve(0.5, 0.65), [curve(0.1, 0.2, 0.9), curve(0.1, 0.2, 0.9), curve(0.1, 0.6, 0.9)]) is None


def test_its_best_so_far_counts_and_not_its_last():
    assert why(curve(0.75, 0.1), GOOD) is None


def test_during_warm_up_and_with_too_few_others_nothing_is_stopped():
    assert why(curve(0.0), GOOD) is None
    assert why(curve(0.0, 0.0), GOOD, rule=MedianStopping(warmup_evaluations=2)) is None
    assert why(curve(0.0, 0.0), GOOD[:2]) is None
    assert why(curve(0.0, 0.0), [*GOOD[:2], curve(0.9)]) is None, "the third has not come as far"


def test_less_is_better_for_a_loss():
    assert why(curve(0.9, 0.9), GOOD, metric="validation/cross_entropy") is not None
    assert why(curve(0.2, 0.2), GOOD, metric="validation/cross_entropy") is None


def test_trials_with_other_numbers_of_steps_are_compared_by_how_far_they_are():
    short = [curve(0.3, 0.6, steps_between=1, total=10) for _ in range(3)]
    assert why(curve(0.1, 0.2), short) is not None
    assert why(curve(0.1, 0.2), [curve(0.3, 0.6, steps_between=5) for _ in range(3)]) is None
