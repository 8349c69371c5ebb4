"""What Attune tells Prometheus, on a registry of its own.

Facts about jobs are read from the store when they are asked for; requests are counted as they pass. Others add what
they count to `Metrics.registry`, as `service.inference.measurements` does.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.launchers.base import Capacity
from service.store.records import EndReason, JobStatus
from service.store.store import Store

CONTENT_TYPE = CONTENT_TYPE_LATEST
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_STEP_GAUGES = {
    "images_per_s": ("attune_training_images_per_second", "Training samples a second over all devices of a job"),
    "data_wait_share": ("attune_training_data_wait_share", "Share of a job's time spent waiting for data, 0 to 1"),
    "step": ("attune_training_step", "Optimizer steps that a running job has done"),
}


class Metrics:
    """What the control plane counts. One an application, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "attune_http_requests",
            "HTTP requests answered, by route template",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "attune_http_request_duration_seconds",
            "Seconds until the answer begins",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )

    def watch(self, store: Store, capacity: Callable[[], Capacity]) -> None:
        """Also tell about the jobs in `store` and the machine's devices."""
        self.registry.register(JobCollector(store, capacity))

    def render(self) -> bytes:
        """All metrics in Prometheus' text format, `CONTENT_TYPE`."""
        return generate_latest(self.registry)


class JobCollector(Collector):
    """Reads the state of jobs from the store at each scrape, so that it is true after a restart, too."""

    def __init__(self, store: Store, capacity: Callable[[], Capacity]) -> None:
        self._store = store
        self._capacity = capacity

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry then does not ask the store for names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        counts = self._store.jobs.count_by_status()
        jobs = GaugeMetricFamily("attune_jobs", "Jobs by status", labels=["status"])
        for status, count in counts.items():
            jobs.add_metric([status.value], count)
        yield jobs
        yield GaugeMetricFamily("attune_queue_depth", "Jobs that wait for devices", value=counts[JobStatus.QUEUED])
        yield from self._waiting()
        yield self._attempts()
        yield from self._devices()
        yield from self._running()

    def _waiting(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily("attune_project_queue_depth", "Jobs of a project that wait", labels=["project"])
        wait = GaugeMetricFamily(
            "attune_project_queue_wait_seconds", "Seconds that a project's first waiting job waits", labels=["project"]
        )
        for project, (count, since) in self._store.jobs.waiting_by_project().items():
            depth.add_metric([project], count)
            wait.add_metric([project], 0.0 if since is None else max(0.0, time.time() - since))
        return depth, wait

    def _attempts(self) -> Metric:
        ended = self._store.attempts.count_ended()
        family = CounterMetricFamily("attune_attempts_ended", "Attempts that ended, by reason", labels=["reason"])
        for reason in EndReason:
            family.add_metric([reason.value], ended.get(reason, 0))
        return family

    def _devices(self) -> Iterable[Metric]:
        total = GaugeMetricFamily("attune_devices", "Devices of this machine", labels=["kind"])
        capacity = self._capacity()
        total.add_metric([capacity.kind], capacity.count)
        yield total
        taken = self._store.attempts.leased_devices()
        yield GaugeMetricFamily("attune_devices_in_use", "Devices that attempts hold", value=len(taken))
        by_node = GaugeMetricFamily("attune_node_devices_in_use", "Devices of a node in use", labels=["node"])
        for node, count in Counts(node for node, _ in taken).items():
            by_node.add_metric([node], count)
        yield by_node

    def _running(self) -> Iterable[Metric]:
        families = {
            field: GaugeMetricFamily(name, documentation, labels=["job"])
            for field, (name, documentation) in _STEP_GAUGES.items()
        }
        step_s = GaugeMetricFamily(
            "attune_training_step_seconds", "Seconds that an optimizer step of a job takes", labels=["job"]
        )
        for job in self._store.jobs.with_status(JobStatus.RUNNING):
            event = self._store.events.latest_metrics(job.id)
            if event is None or event.data is None:
                continue
            for field, family in families.items():
                family.add_metric([job.id], event.data[field])
            if event.data["images_per_s"]:
                step_s.add_metric([job.id], job.spec["batch"]["global_size"] / event.data["images_per_s"])
        return [*families.values(), step_s]
