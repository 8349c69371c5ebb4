"""Every error leaves the service in OpenAI's envelope."""

from typing import Annotated

import pytest
from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, field_validator
from starlette.testclient import TestClient

from service.errors import (
    AttuneError,
    Conflict,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    TooManyRequests,
    Unavailable,
    field_path,
    install_error_handlers,
)
from service.store.records import AlreadyExists, JobStatus, TransitionRefused, UnknownId
from trainer.resolve import SpecError, SpecProblem


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner
    colour: str = "red"

    @field_validator("colour")
    @classmethod
    def _no_blue(cls, value):
        if value == "blue":
            raise ValueError("blue is sold out")
        return value


def app_that_raises(error: Exception) -> TestClient:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    def fail():
        raise error

    @app.post("/things")
    def make(thing: Thing, limit: Annotated[int, Query(le=9)] = 1) -> dict:
        return {}

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (NotFound("no x"), 404, "invalid_request_error", "not_found"),
        (InvalidRequest("bad x"), 400, "invalid_request_error", "invalid_request"),
        (InvalidRequest("bad x", status=422, code="odd"), 422, "invalid_request_error", "odd"),
        (Conflict("x runs"), 409, "invalid_request_error", "conflict"),
        (PayloadTooLarge("x is large"), 413, "invalid_request_error", "payload_too_large"),
        (TooManyRequests("later", retry_after_s=1.2), 429, "rate_limit_error", "too_many_requests"),
        (Unavailable("not now", retry_after_s=0.1), 503, "server_error", "unavailable"),
        (AttuneError("oh"), 500, "server_error", "internal_error"),
        (UnknownId("model", "m"), 404, "invalid_request_error", "not_found"),
        (TransitionRefused("j", JobStatus.FAILED, "cancelled"), 409, "invalid_request_error", "conflict"),
        (AlreadyExists("model", "m"), 409, "invalid_request_error", "conflict"),
    ],
)
def test_each_error_has_its_status_and_envelope(error, status, kind, code):
    answer = app_that_raises(error).get("/")
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": str(error), "type": kind, "param": None, "code": code}}


def test_a_conflict_is_not_retried_by_openai_clients():
    assert app_that_raises(Conflict("x runs")).get("/").headers["x-should-retry"] == "false"


def test_overload_says_when_to_come_back_in_whole_seconds():
    assert app_that_raises(TooManyRequests("later", retry_after_s=1.2)).get("/").headers["retry-after"] == "2"
    assert app_that_raises(Unavailable("later", retry_after_s=0.1)).get("/").headers["retry-after"] == "1"
    assert "retry-after" not in app_that_raises(Unavailable("down")).get("/").headers


def test_a_spec_error_lists_all_problems_and_names_the_first():
    problems = [
        SpecProblem(field="optim.lr", message="must be above 0, got -1", value=-1),
        SpecProblem(field="data.train", message="name the training data"),
    ]
    answer = app_that_raises(SpecError(problems)).get("/")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "optim.lr", "invalid_spec")
    assert error["message"] == "optim.lr: must be above 0, got -1\ndata.train: name the training data"
    assert [p["field"] for p in error["problems"]] == ["optim.lr", "data.train"]
    assert error["problems"][0]["value"] == -1


def test_a_surprise_tells_nothing_of_the_inside(caplog):
    answer = app_that_raises(RuntimeError("password is hunter2")).get("/")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


def test_broken_json_is_400_and_a_wrong_shape_422():
    client = app_that_raises(RuntimeError())
    broken = client.post("/things", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
    wrong = client.post("/things", json={"inner": {"size": "big"}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "inner.size")
    assert "got 'big'" in wrong.json()["error"]["message"]


def test_json_under_another_name_is_refused_with_the_way_out():
    answer = app_that_raises(RuntimeError()).post("/things", content=b'{"inner": {"size": 1}}')
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_an_error_can_quote_what_is_no_text():
    client = app_that_raises(NotFound("no '\ud800'", param="\ud800"))
    assert client.get("/").json()["error"]["param"] == "\ufffd"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "inner", "this field is required"),
        ({"inner": {"size": 1, "sise": 2}}, "inner.sise", "there is no such field"),
        ({"inner": {"size": 1}, "colour": "blue"}, "colour", "colour: blue is sold out"),
    ],
)
def test_the_field_at_fault_is_named_by_its_path(body, param, words):
    error = app_that_raises(RuntimeError()).post("/things", json=body).json()["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_a_query_parameter_is_named_without_prefix():
    error = app_that_raises(RuntimeError()).post("/things?limit=10", json={"inner": {"size": 1}}).json()["error"]
    assert error["param"] == "limit"


def test_unknown_paths_and_methods_have_the_envelope_too():
    client = app_that_raises(RuntimeError())
    missing = client.get("/nowhere")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert "GET /nowhere" in missing.json()["error"]["message"]
    wrong = client.put("/things")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_field_paths_keep_a_field_that_is_called_body():
    assert field_path(("body", "spec", "data", 0)) == "spec.data.0"
    assert field_path(("body",)) == "body"
