"""What trials have shown so far: their evaluations, read from their jobs' events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.store.store import Store
from trainer.spec_checks.metrics import metric_named

_PAGE = 1000


@dataclass(frozen=True)
class Evaluated:
    """The metric at one point of a trial."""

    step: int
    """Optimizer steps done."""
    value: float


@dataclass
class Curve:
    """A trial's evaluations, and how far its events have been read."""

    seq: int = 0
    total_steps: int | None = None
    points: list[Evaluated] = field(default_factory=list)

    def share(self, step: int) -> float:
        """How much of the training `step` is: trials with other batches have other numbers of steps."""
        return step / self.total_steps if self.total_steps else float(step)

    def best(self, metric: str, *, until: float = float("inf")) -> Evaluated | None:
        """The best evaluation up to a share of the training, the first of equals."""
        merit = metric_named(metric).merit
        there = [point for point in self.points if self.share(point.step) <= until + 1e-9]
        return max(there, key=lambda point: (merit(point.value), -point.step), default=None)

    def reached(self) -> float:
        """The share of the training that the last evaluation was made at; 0 before the first."""
        return max((self.share(point.step) for point in self.points), default=0.0)


class Curves:
    """Curves of many jobs, read on from where they were left."""

    def __init__(self, store: Store, metric: str) -> None:
        self._store = store
        self._dataset, _, self._name = metric.rpartition("/")
        self._curves: dict[str, Curve] = {}

    def of(self, job_id: str) -> Curve:
        """The job's curve as it is now."""
        curve = self._curves.setdefault(job_id, Curve())
        while events := self._store.events.since(job_id, curve.seq, limit=_PAGE):
            for event in events:
                self._take(curve, event.data or {})
            curve.seq = events[-1].seq
        return curve

    def _take(self, curve: Curve, data: dict[str, Any]) -> None:
        if data.get("type") == "started":
            curve.total_steps = data["total_steps"]
        elif data.get("type") == "evaluation" and data["dataset"] == self._dataset and self._name in data["metrics"]:
            value = data["metrics"][self._name]
            if value is not None:  # JSON has no word for what is no number
                curve.points.append(Evaluated(data["step"], float(value)))
