"""What the inference endpoints measure, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measurements:
    """Histograms of one gateway; times are in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue = _seconds(registry, "queue", "Time from a request's arrival until its batch went to the worker.")
        self.decode = _seconds(registry, "decode", "Time that a batch's images took to decode and preprocess.")
        self.model = _seconds(registry, "model", "Time that a batch took in the model.")
        self.load = _seconds(registry, "load", "Time from the start of a worker process until its model was ready.")
        self.batch_size = Histogram(
            "attune_inference_batch_size",
            "Images and texts in one batch.",
            buckets=_ROWS,
            registry=registry,
        )
        self.refused = Counter(
            "attune_inference_refused",
            "Questions without an answer, by the reason.",
            ["reason"],
            registry=registry,
        )
        self.worker_deaths = Counter(
            "attune_inference_worker_deaths",
            "Worker processes that ended by themselves or were killed because they did not answer.",
            registry=registry,
        )


def _seconds(registry: CollectorRegistry, part: str, what: str) -> Histogram:
    return Histogram(f"attune_inference_{part}_seconds", what, buckets=_SECONDS, registry=registry)
