"""What Prometheus is told of jobs, with real ones."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_jobs_attempts_devices_and_training_are_told(world: Any) -> None:
    runner = world.new_runner()
    metrics = Metrics()
    metrics.watch(world.store, runner.capacity)
    assert read(metrics)["attune_jobs", "running"] == 0
    done = world.finish(world.submit(), runner)
    running = world.submit(steps=1000)
    waiting = world.submit(devices=2)
    world.wait(lambda: len(world.steps(running)) > 1, runner=runner)
    told = read(metrics)
    assert [told["attune_jobs", status] for status in ("succeeded", "running", "queued", "failed")] == [1, 1, 1, 0]
    assert told["attune_queue_depth",] == 1
    assert (told["attune_devices", "cpu"], told["attune_devices_in_use",]) == (2, 1)
    assert told["attune_attempts_ended_total", "completed"] == 1
    assert told["attune_attempts_ended_total", "crashed"] == 0
    assert told["attune_training_images_per_second", running.id] == 50
    assert told["attune_training_step_seconds", running.id] == running.spec["batch"]["global_size"] / 50
    assert told["attune_project_queue_depth", "default"] == 1
    assert 0 <= told["attune_project_queue_wait_seconds", "default"] < 600
    assert told["attune_node_devices_in_use", "local"] == 1
    assert told["attune_training_data_wait_share", running.id] == 0.25
    assert told["attune_training_step", running.id] == world.steps(running)[-1]
    assert not any(waiting.id in key or done.id in key for key in told)


def test_requests_are_counted_and_timed() -> None:
    metrics = Metrics()
    metrics.requests.labels("GET", "/v1/models", "200").inc()
    metrics.request_seconds.labels("GET", "/v1/models").observe(0.02)
    told = read(metrics)
    assert told["attune_http_requests_total", "GET", "/v1/models", "200"] == 1
    assert told["attune_http_request_duration_seconds_bucket", "0.025", "GET", "/v1/models"] == 1
    assert told["attune_http_request_duration_seconds_bucket", "0.01", "GET", "/v1/models"] == 0
