"""Median stopping, after Golovin et al., https://research.google/pubs/google-vizier-a-service-for-black-box-optimization/.

A trial is stopped if its best value so far is worse than the median of what the other trials had at best when they
were as far.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from service.schemas.sweeps import MedianStopping
from service.sweeps.curves import Curve
from trainer.spec_checks.metrics import metric_named, shown


def why_stop(curve: Curve, others: Sequence[Curve], *, metric: str, rule: MedianStopping) -> str | None:
    """Why a trial with this curve is to be stopped, as a sentence; None if it may go on."""
    if len({point.step for point in curve.points}) <= rule.warmup_evaluations:
        return None
    reached, merit = curve.reached(), metric_named(metric).merit
    best = curve.best(metric)
    as_far = [other.best(metric, until=reached) for other in others if other.reached() >= reached - 1e-9]
    values = [evaluated.value for evaluated in as_far if evaluated is not None]
    if best is None or len(values) < rule.min_trials:
        return None
    median = statistics.median(values)
    if merit(best.value) >= merit(median):
        return None
    step = max(point.step for point in curve.points)
    return (
        f"stopped at step {step}: its best {metric} so far, {shown(metric, best.value)}, is worse than the median of "
        f"{len(values)} other trials when they were as far, {shown(metric, median)}"
    )
