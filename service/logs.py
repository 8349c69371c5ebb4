"""Log lines of the service: text for people or JSON objects for programs, with job and request ids, without secrets.

`request_id` and `job_id` are set where a request or a job is dealt with; every line written meanwhile carries them.
"""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from service.redaction import redact

_request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
_job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)


@contextmanager
def about(*, request_id: str | None = None, job_id: str | None = None) -> Iterator[None]:
    """Lines logged in this block, in this thread or task, carry these ids; None leaves one as it is."""
    given = [(_request_id, request_id), (_job_id, job_id)]
    tokens = [(variable, variable.set(value)) for variable, value in given if value is not None]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00 INFO service.jobs.runner: message [job=..., request=...]`, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line before any traceback."""
        ids = [f"{name}={value}" for name, value in _ids().items()]
        return super().formatMessage(record) + (f" [{', '.join(ids)}]" if ids else "")

    def format(self, record: logging.LogRecord) -> str:
        """The whole text; tracebacks lose their secrets as well."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object a line: `time`, `level`, `logger`, `message`, ids, and `exception` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            **{f"{name}_id": value for name, value in _ids().items()},
        }
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure_logging(form: Literal["text", "json"], *, level: str) -> None:
    """Send the log lines of the whole process to stderr in one form; called once, before the server starts."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("alembic", "httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def _ids() -> dict[str, str]:
    found = {"request": _request_id.get(), "job": _job_id.get()}
    return {name: value for name, value in found.items() if value is not None}
