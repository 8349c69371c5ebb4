"""Request ids, the limit on bodies, and metrics by route."""

import asyncio

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from service.errors import install_error_handlers
from service.metrics import Metrics
from service.middleware import BodyLimit, RequestIds, RequestMetrics


def make_app(*, max_bytes: int = 100) -> FastAPI:
    app = FastAPI()
    app.state.metrics = Metrics()
    install_error_handlers(app)

    @app.post("/echo/{name}")
    async def echo(name: str, request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    def parse(body: dict) -> dict:
        return body

    @app.get("/id")
    def own_id(request: Request) -> str:
        return request.state.request_id

    @app.get("/fail")
    def fail():
        raise RuntimeError("oh")

    app.add_middleware(BodyLimit, max_bytes=max_bytes)
    app.add_middleware(RequestMetrics, metrics=app.state.metrics)
    app.add_middleware(RequestIds)
    return app


@pytest.fixture
def app() -> FastAPI:
    return make_app()


@pytest.fixture
def client(app) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def test_an_answer_names_its_request(client):
    first, second = client.get("/id"), client.get("/id")
    assert first.headers["x-request-id"] == first.json()
    assert first.json() != second.json()


def test_the_callers_own_id_is_kept_if_it_is_sane(client):
    assert client.get("/id", headers={"x-request-id": "trace-1"}).headers["x-request-id"] == "trace-1"
    assert client.get("/id", headers={"x-request-id": "a b\tc"}).json().startswith("req_")


def test_a_failed_request_is_named_as_well(client):
    answer = client.get("/fail", headers={"x-request-id": "trace-2"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "trace-2"
    assert "trace-2" in answer.json()["error"]["message"]


def test_a_body_up_to_the_limit_passes(client):
    assert client.post("/echo/a", content=b"x" * 100).json() == 100


def test_a_larger_body_is_refused_by_its_announced_length(client):
    answer = client.post("/echo/a", content=b"x" * 101)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert "100 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/echo/a", "/json"])
def test_a_body_without_length_is_refused_once_it_grows_too_large(client, path):
    chunks = (b"x" * 60 for _ in range(4))
    answer = client.post(path, content=chunks, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


def test_the_rest_of_a_too_large_body_is_not_read():
    read = 0
    sent = []

    async def receive():
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/echo/a", "headers": [], "query_string": b"", "app": None}
    asyncio.run(make_app()({**scope, "raw_path": b"/echo/a", "root_path": "", "scheme": "http"}, receive, send))
    assert sent[0]["status"] == 413
    assert read == 2


def test_requests_are_counted_by_route_template(app, client):
    client.post("/echo/a", content=b"1")
    client.post("/echo/b", content=b"1")
    client.post("/echo/b", content=b"x" * 101)
    client.get("/fail")
    client.get("/nowhere/1")
    client.request("BREW", "/id")

    def count(method, route, status):
        labels = {"method": method, "route": route, "status": status}
        return app.state.metrics.registry.get_sample_value("attune_http_requests_total", labels)

    assert count("POST", "/echo/{name}", "200") == 2
    assert count("GET", "/fail", "500") == 1
    assert count("GET", "unmatched", "404") == 1
    assert count("POST", "unmatched", "413") == 1
    assert count("OTHER", "/id", "405") == 1
    text = app.state.metrics.render().decode()
    assert 'attune_http_request_duration_seconds_count{method="POST",route="/echo/{name}"} 2.0' in text
