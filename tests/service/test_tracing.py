"""Traces: a span a request and one an attempt, through OpenTelemetry's own SDK."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import tracing
from service.settings import Settings
from service.startup import StartError, open_tracing
from service.store.records import AttemptRecord, AttemptStatus, EndReason, JobRecord

JOB = JobRecord(id="ftjob-1", spec={}, model="m", job_dir="/x", created_at=1.0, project_id="vision", recipe="flyp")

needs_otel = pytest.mark.skipif(not tracing.is_installed(), reason="the extra `otel` is not installed")


@pytest.fixture
def spans() -> Any:
    """An exporter that keeps spans in memory."""
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    return memory.InMemorySpanExporter()


@pytest.fixture
def traced(spans: Any) -> tracing.Tracing:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    return tracing.Tracing(SimpleSpanProcessor(spans))


def test_nothing_is_traced_unless_a_collector_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracing.ENDPOINT_VARIABLE, raising=False)
    assert open_tracing(Settings(data_dir=tmp_path)) is None


@pytest.mark.parametrize("variable", ["ATTUNE_OTLP_ENDPOINT", tracing.ENDPOINT_VARIABLE])
def test_without_the_extra_the_service_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:4318")
    monkeypatch.setattr(tracing, "_NEEDED", ("opentelemetry_that_is_nowhere.sdk",))
    with pytest.raises(StartError, match=rf"{variable} is set.*attune-clip\[otel\]"):
        open_tracing(Settings(data_dir=tmp_path))


@needs_otel
def test_a_collector_that_is_named_gets_traces(tmp_path: Path) -> None:
    found = open_tracing(Settings(data_dir=tmp_path, otlp_endpoint="http://127.0.0.1:9/"))
    assert found is not None
    found.close()


def test_an_attempt_is_a_span_from_its_beginning_to_its_end(spans: Any, traced: tracing.Tracing) -> None:
    attempt = AttemptRecord(
        job_id=JOB.id,
        number=2,
        status=AttemptStatus.ENDED,
        devices=[0, 1],
        resume=True,
        created_at=100.0,
        ended_at=160.5,
        end_reason=EndReason.OUT_OF_MEMORY,
        end_message="no room; key ak-0123456789012345678901234567890123456789",
        last_step=40,
    )
    traced.attempt_ended(JOB, attempt)
    (span,) = spans.get_finished_spans()
    assert (span.name, span.start_time, span.end_time) == ("attempt", 100 * 10**9, 1605 * 10**8)
    told = {name.removeprefix("attune."): value for name, value in span.attributes.items()}
    assert (told["job"], told["project"], told["attempt"], told["devices"]) == ("ftjob-1", "vision", 2, 2)
    assert (told["end_reason"], told["last_step"], told["resumed"]) == ("out_of_memory", 40, True)
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "no room; key [hidden]")


def test_requests_and_the_attempt_of_a_real_job_are_traced(
    spans: Any, traced: tracing.Tracing, start_service: Any
) -> None:
    service = start_service(tracing=traced)
    with httpx.Client(base_url=service.url, timeout=20) as http:
        http.get("/healthz")
        body = {"model": "ViT-B-32", "recipe": "flyp", "training_file": str(service.data)}
        made = http.post("/v1/fine_tuning/jobs", json=body)
        path = f"/v1/fine_tuning/jobs/{made.json()['id']}"
        deadline = time.monotonic() + 30
        while http.get(path).json()["status"] != "succeeded":
            assert time.monotonic() < deadline
            time.sleep(0.05)
    deadline = time.monotonic() + 5
    while not (attempts := [span for span in spans.get_finished_spans() if span.name == "attempt"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [(a.attributes["attune.job"], a.attributes["attune.end_reason"]) for a in attempts] == [
        (made.json()["id"], "completed")
    ]
    (submission,) = [span for span in spans.get_finished_spans() if span.name.startswith("POST ")]
    assert submission.name == "POST /v1/fine_tuning/jobs"
    assert submission.attributes["attune.request_id"] == made.headers["x-request-id"]
    assert submission.attributes["attune.project"] == "default"
    assert not [span for span in spans.get_finished_spans() if "healthz" in span.name]
