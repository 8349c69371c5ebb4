"""Traces for OpenTelemetry, if a collector is named: a span for each request, and one for each attempt at a job.

Off unless ATTUNE_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT says where they go. Needs the extra `otel`; the other
`OTEL_*` variables (service name, headers, sampling) mean what they mean everywhere.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.redaction import redact
from service.settings import Settings
from service.store.records import AttemptRecord, EndReason, JobRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_NEEDED = (
    "opentelemetry.sdk",
    "opentelemetry.instrumentation.fastapi",
    "opentelemetry.exporter.otlp.proto.http",
)
_NO_FAULT = frozenset({EndReason.COMPLETED, EndReason.CANCELLED, EndReason.PAUSED, EndReason.PREEMPTED})
_UNTRACED = "healthz,readyz,metrics"


class TracingRefused(Exception):
    """Traces are wanted and cannot be made; the text says why."""


class Tracing:
    """Makes the spans of one application and sends them."""

    def __init__(self, processor: SpanProcessor) -> None:
        """`processor` takes each span once it has ended."""
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider

        named = OTELResourceDetector().detect().attributes
        resource = Resource.create({} if SERVICE_NAME in named else {SERVICE_NAME: "attune"})
        self.provider: TracerProvider = TracerProvider(resource=resource)
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("attune")

    def install(self, app: FastAPI) -> None:
        """Trace the requests to `app`, but those that only look whether it lives."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=self.provider, excluded_urls=_UNTRACED, exclude_spans=["receive", "send"]
        )

    def attempt_ended(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Make the span of an attempt that has ended, from its beginning to its end."""
        from opentelemetry.trace import Status, StatusCode

        reason = attempt.end_reason
        span = self._tracer.start_span(
            "attempt", start_time=_nanoseconds(attempt.created_at), attributes=_attributes(job, attempt)
        )
        if reason is not None and reason not in _NO_FAULT:
            span.set_status(Status(StatusCode.ERROR, redact(attempt.end_message or reason.value)))
        span.end(_nanoseconds(attempt.ended_at or attempt.created_at))

    def close(self) -> None:
        """Send what has not been sent yet."""
        self.provider.shutdown()


class RequestAttributes:
    """ASGI middleware that gives the span of a request its id and project; goes inside that which makes the ids."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from opentelemetry import trace

        span = trace.get_current_span()

        async def send_noting(message: Message) -> None:
            # The span ends with the last part of the answer, so what is known by its first part is written then.
            if message["type"] == "http.response.start":
                state: dict[str, Any] = scope.get("state", {})
                span.set_attribute("attune.request_id", state["request_id"])
                if caller := state.get("caller"):
                    span.set_attribute("attune.project", caller.project_id)
            await send(message)

        await self.app(scope, receive, send_noting)


def tracing_of(settings: Settings) -> Tracing | None:
    """What makes traces, or None if nobody wants them.

    Raises:
        TracingRefused: the extra `otel` is not installed.
    """
    endpoint = settings.otlp_endpoint
    if endpoint is None and not os.environ.get(ENDPOINT_VARIABLE):
        return None
    if not is_installed():
        variable = ENDPOINT_VARIABLE if endpoint is None else "ATTUNE_OTLP_ENDPOINT"
        raise TracingRefused(f"{variable} is set, and traces need OpenTelemetry: pip install 'attune-clip[otel]'")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The variable names the collector, to which the exporter adds the path; its argument is taken as it is.
    exporter = OTLPSpanExporter() if endpoint is None else OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")
    return Tracing(BatchSpanProcessor(exporter))


def is_installed() -> bool:
    """Whether the extra `otel` is there."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False


def _attributes(job: JobRecord, attempt: AttemptRecord) -> dict[str, str | int | bool]:
    return {
        "attune.job": job.id,
        "attune.project": job.project_id,
        "attune.model": job.model,
        "attune.recipe": job.recipe or "",
        "attune.attempt": attempt.number,
        "attune.engine": attempt.engine,
        "attune.devices": len(attempt.devices),
        "attune.nodes": len(attempt.placement),
        "attune.resumed": attempt.resume,
        "attune.start_step": attempt.start_step,
        "attune.last_step": attempt.last_step,
        "attune.end_reason": attempt.end_reason.value if attempt.end_reason else "",
    }


def _nanoseconds(unix_seconds: float) -> int:
    return int(unix_seconds * 1e9)
