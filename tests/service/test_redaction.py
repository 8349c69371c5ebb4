"""No secret gets into a log line, a stored event, a job's error or an answer."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import logs
from service.errors import NotFound, error_response
from service.jobs import lifecycle
from service.logs import JsonFormatter, TextFormatter
from service.redaction import redact, redact_values, secrets_in
from service.store.opening import open_store
from service.store.records import JobRecord, NewEvent
from service.store.store import Store

KEY = "ak-" + "2Z_woQ1MsKgOdygok2suvOqxn0lTUM7ub4Q42UJk"
SECRETS = {
    KEY: f"refused {KEY} today",
    "s3cr3t-p4ss": "cannot open postgresql+psycopg://attune:s3cr3t-p4ss@db.example.org:5432/attune",
    "hunter2hunter2": "GET https://me:hunter2hunter2@example.org/x failed",
    "abcdef0123456789": "headers={'Authorization': 'Bearer abcdef0123456789'}",
    "dXNlcjpwYXNzd29yZA==": "Authorization: Basic dXNlcjpwYXNzd29yZA==",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AKIAIOSFODNN7EXAMPLE": "s3 said no to AKIAIOSFODNN7EXAMPLE",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw": "signed with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "hf_AbCdEfGhIjKlMnOpQrStUvWx": "token hf_AbCdEfGhIjKlMnOpQrStUvWx is not for this repository",
    "5ignatur3c0ffee": "https://b.s3.amazonaws.com/x.tar?X-Amz-Expires=60&X-Amz-Signature=5ignatur3c0ffee&a=b",
    "SasSasSasSas%3D": "https://a.blob.core.windows.net/c/x?sv=2024&sig=SasSasSasSas%3D",
    "letmein-letmein": '{"password": "letmein-letmein", "user": "me"}',
}


@pytest.mark.parametrize(("secret", "text"), SECRETS.items())
def test_a_secret_goes_and_the_rest_stays(secret: str, text: str) -> None:
    hidden = redact(text)
    assert secret not in hidden
    assert "[hidden]" in hidden
    assert hidden.replace("[hidden]", "")[:6] == text[:6] or text.startswith(secret)
    assert redact(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "Step 40/100: loss=1.234, 512 images/s",
        "data.train.path: there is no folder /data/flowers",
        "caption has 91 tokens; the text tower takes 77",
        "image-token attention is basic attention; author: me",
        "no API key was given; send it as `Authorization: Bearer KEY`",
        "key-9b3a175976835082f366320d was revoked",
        "https://example.org:8443/path?page=2&after=ftjob-1",
        "parallel.devices: 8 devices are wanted, this machine has 2",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_go_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    found = secrets_in(
        {
            "RAY_AUTH_TOKEN": "0123456789abcdef",
            "PGPASSWORD": "correct horse",
            "TOKENIZERS_PARALLELISM": "disabled-for-now",
            "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google.json",
            "MY_SECRET": "short",
        }
    )
    assert found == ("0123456789abcdef", "correct horse")
    monkeypatch.setattr("service.redaction._OF_THIS_PROCESS", found)
    assert redact("ray said 0123456789abcdef!") == "ray said [hidden]!"


def test_json_values_lose_what_stands_under_a_secrets_name() -> None:
    given = {"url": "s3://a:bbbbbbbb@c/", "nested": [{"client_secret": "x", "secrets": ["keep"]}], "lr": 0.1}
    assert redact_values(given) == {
        "url": "s3://a:[hidden]@c/",
        "nested": [{"client_secret": "[hidden]", "secrets": ["keep"]}],
        "lr": 0.1,
    }


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO, logging.Handler]]:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("attune-test")
    logger.addHandler(handler)
    yield logger, written, handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_log_lines_and_tracebacks_hold_no_secret(
    lines: tuple[logging.Logger, io.StringIO, logging.Handler], formatter: logging.Formatter
) -> None:
    logger, written, handler = lines
    handler.setFormatter(formatter)
    for text in SECRETS.values():
        logger.error("it failed: %s", text)
        try:
            raise RuntimeError(text)
        except RuntimeError:
            logger.exception("once more")
    assert "RuntimeError" in written.getvalue()
    assert not [secret for secret in SECRETS if secret in written.getvalue()]


def test_json_lines_carry_the_ids_of_what_they_are_about(
    lines: tuple[logging.Logger, io.StringIO, logging.Handler],
) -> None:
    logger, written, handler = lines
    handler.setFormatter(JsonFormatter())
    with logs.about(request_id="req_1"), logs.about(job_id="ftjob-1"):
        logger.error("two\nlines")
    logger.error("outside")
    inside, outside = map(json.loads, written.getvalue().splitlines())
    assert (inside["request_id"], inside["job_id"], inside["message"]) == ("req_1", "ftjob-1", "two\nlines")
    assert (inside["level"], inside["logger"]) == ("error", "attune-test")
    assert "job_id" not in outside
    handler.setFormatter(TextFormatter())
    with logs.about(job_id="ftjob-2"):
        logger.error("as text")
    assert written.getvalue().endswith("attune-test: as text [job=ftjob-2]\n")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/attune.db")
    yield store
    store.close()


def test_the_database_holds_no_secret_of_events_and_errors(store: Store) -> None:
    store.jobs.create(JobRecord(id="ftjob-1", spec={}, model="m", job_dir="/x", created_at=1.0))
    now = time.time()
    told = [NewEvent(message=text, created_at=now, data={"why": [text]}) for text in SECRETS.values()]
    store.events.append("ftjob-1", told)
    lifecycle.fail(store, "ftjob-1", code="bad_data", message=" ".join(SECRETS.values()))
    with store.database.read() as connection:
        rows = str(connection.exec_driver_sql("SELECT * FROM events").all())
        rows += str(connection.exec_driver_sql("SELECT * FROM jobs").all())
    assert rows.count("[hidden]") > len(SECRETS)
    assert not [secret for secret in SECRETS if secret in rows]


def test_error_answers_hold_no_secret() -> None:
    sent = bytes(error_response(NotFound(" ".join(SECRETS.values()))).body).decode()
    assert not [secret for secret in SECRETS if secret in sent]


def test_long_text_is_looked_through_fast() -> None:
    began = time.perf_counter()
    redact("a_b-c." * 20_000 + "://" + "x" * 50_000 + "?" + "key" * 20_000)
    assert time.perf_counter() - began < 2
