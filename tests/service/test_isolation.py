"""One project never sees another: every route of the OpenAPI document is tried, so that no new one is forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from service.app import create_app
from service.security import make_key
from service.settings import Settings
from service.store.opening import open_store
from service.store.records import (
    ApiKeyRecord,
    AuditRecord,
    FileRecord,
    JobRecord,
    JobStatus,
    ModelRecord,
    NewEvent,
    ProjectRecord,
    Role,
    SweepRecord,
    UploadRecord,
    WebhookRecord,
)
from service.store.store import Store

MARK = "zzsecretzz"
"""Stands in everything that belongs to the other project, and nowhere else."""
OPEN = {"/healthz", "/readyz", "/metrics"}
"""Routes that are nobody's; `/metrics` has a rule and a test of its own."""
EVERYBODYS = {"/v1/recipes", "/v1/recipes/{name}"}

THEIRS = {
    "job_id": f"ftjob-{MARK}",
    "model": f"ft:m:{MARK}",
    "fine_tuned_model": f"ft:m:{MARK}",
    "file_id": f"file-{MARK}",
    "upload_id": f"upload_{MARK}",
    "sweep_id": f"sweep-{MARK}",
    "webhook_id": f"wh_{MARK}",
    "delivery_id": f"msg_{MARK}",
    "project_id": f"p-{MARK}",
    "checkpoint_id": f"ftckpt-{MARK}",
    "checkpoint": f"ftjob-{MARK}:ckpt-step-1-attempt-1",
    "fine_tuned_model_checkpoint": f"ftjob-{MARK}:ckpt-step-1-attempt-1",
    "number": "0",
    "path": "spec.json",
    "name": MARK,
}
"""A value for every parameter that any path has; `key_id` comes with the key."""


@dataclass
class World:
    """Two projects in one service."""

    client: TestClient
    store: Store
    ours: dict[str, str]
    theirs: dict[str, str]
    their_key: ApiKeyRecord

    def value(self, parameter: str) -> str:
        """Something of theirs for a path parameter."""
        return self.their_key.id if parameter == "key_id" else THEIRS[parameter]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("two")
    settings = Settings(data_dir=folder, requests_per_minute=None, submissions_per_minute=None)
    store = open_store(settings.effective_database_url)
    _fill(store, folder)
    headers, records = [], []
    for project in ("ours", THEIRS["project_id"]):
        key, record = make_key(project=project, name=f"key of {project}", role=Role.ADMIN)
        records.append(store.keys.create(record))
        headers.append({"Authorization": f"Bearer {key}"})
    with TestClient(create_app(settings, store=store), raise_server_exceptions=False) as client:
        yield World(client, store, headers[0], headers[1], records[1])


def _fill(store: Store, folder: Path) -> None:
    """One of everything, in the other project."""
    theirs = THEIRS["project_id"]
    for id in ("ours", theirs):
        store.projects.create(ProjectRecord(id=id, name=id, created_at=1.0))
    job_dir = folder / "jobs" / THEIRS["job_id"]
    job_dir.mkdir(parents=True)
    (job_dir / "spec.json").write_text(json.dumps({"note": MARK}))
    made = {"project_id": theirs, "created_at": time.time()}
    job = JobRecord(id=THEIRS["job_id"], spec={}, model=MARK, job_dir=str(job_dir), status=JobStatus.PAUSED, **made)
    store.jobs.create(job)
    store.events.append(job.id, [NewEvent(message=MARK, created_at=1.0)])
    store.models.add(ModelRecord(id=THEIRS["model"], path=str(folder / MARK), task="clip", **made))
    content = folder / "files" / theirs / THEIRS["file_id"] / "content" / "x.csv"
    content.parent.mkdir(parents=True)
    content.write_text(MARK)
    file = FileRecord(
        id=THEIRS["file_id"], filename=f"{MARK}.csv", purpose="fine-tune", status="processed", num_bytes=10,
        sha256=None, path=str(content), **made,
    )  # fmt: skip
    store.files.add(file)
    store.uploads.create(
        UploadRecord(
            id=THEIRS["upload_id"],
            filename=MARK,
            purpose="fine-tune",
            mime_type="text/csv",
            num_bytes=9,
            status="pending",
            expires_at=time.time() + 1000,
            **made,
        )  # fmt: skip
    )
    store.webhooks.create(
        WebhookRecord(id=THEIRS["webhook_id"], url=f"https://{MARK}.example.org/", event_types=[], secrets=[], **made)
    )
    sweep = SweepRecord(id=THEIRS["sweep_id"], status="running", request={"name": MARK}, name=MARK, **made)
    store.sweeps.create(sweep)
    store.sweeps.end(sweep.id, "cancelled")
    store.audit.append(AuditRecord(at=time.time(), actor=MARK, action=f"{MARK}.do", outcome="ok", project_id=theirs))


def routes(world: World) -> list[tuple[str, str, dict[str, Any]]]:
    """Every method of every path, with its description."""
    document = world.client.get("/openapi.json").json()
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in ("get", "post", "put", "patch", "delete") and path not in OPEN
    ]


DESCRIBED = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
"""FastAPI's own pages: the description of the service, which is the same for everybody."""


def routes_in(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, and those of the routers among them, which newer versions of FastAPI keep as they are."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from routes_in(router.routes)


def test_the_document_that_these_tests_go_by_leaves_no_route_out(world: World) -> None:
    """Neither one that is hidden from it, nor a mounted application, a websocket, or one outside the doorkeeper."""
    app = world.client.app
    assert isinstance(app, FastAPI)
    there = {
        (method, getattr(route, "path", str(route)))
        for route in routes_in(app.routes)
        for method in getattr(route, "methods", None) or {type(route).__name__}
    }
    there = {(method, path) for method, path in there if path not in DESCRIBED}
    described = {(method, path) for method, path, _ in routes(world)} | {("GET", path) for path in OPEN}
    assert {(method, path.replace(":path}", "}")) for method, path in there if method != "HEAD"} == described
    assert all(path.startswith("/v1/") for _, path in described if path not in OPEN)


def address(world: World, path: str) -> str:
    for parameter in [part[1:-1].removesuffix(":path") for part in path.split("/") if part.startswith("{")]:
        assert parameter == "key_id" or parameter in THEIRS, (
            f"{path} has the parameter {parameter!r}: give it a value of the other project in THEIRS, and make the "
            "thing itself in _fill"
        )
        path = path.replace(f"{{{parameter}}}", world.value(parameter))
    return path


def test_no_route_answers_without_a_key(world: World) -> None:
    answered = [
        (method, path, status)
        for method, path, _ in routes(world)
        if (status := world.client.request(method, address(world, path)).status_code) not in (401, 429)
    ]
    assert not answered


def test_no_route_shows_or_changes_anything_of_another_project(world: World) -> None:
    before = _state(world.store)
    leaks = []
    for method, path, _ in routes(world):
        where = address(world, path)
        answer = world.client.request(method, where, headers=world.ours, json={} if method != "GET" else None)
        # Our own audit log tells what we tried; that it tells nothing else has a test of its own.
        named = MARK in answer.text and answer.status_code < 400 and path != "/v1/audit"
        reached = "{" in path and path not in EVERYBODYS and answer.status_code < 400
        if named or reached or answer.status_code >= 500:
            leaks.append((method, path, answer.status_code, answer.text[:200]))
    assert not leaks
    assert _state(world.store) == before


def test_hidden_and_missing_things_cannot_be_told_apart(world: World) -> None:
    different = []
    for method, path, _ in routes(world):
        if "{" not in path or path in EVERYBODYS:
            continue
        where = address(world, path)
        nowhere = where.replace(MARK, "zznobodyzz").replace(world.their_key.id, "key-nobodys")
        hidden, missing = (
            world.client.request(method, url, headers=world.ours, json={} if method != "GET" else None)
            for url in (where, nowhere)
        )
        text = missing.text.replace("zznobodyzz", MARK).replace("key-nobodys", world.their_key.id)
        if (hidden.status_code, hidden.text) != (missing.status_code, text):
            different.append((method, path, hidden.status_code, missing.status_code, hidden.text[:160], text[:160]))
    assert not different


def test_their_own_key_reaches_what_is_theirs(world: World) -> None:
    """Otherwise the tests above would prove nothing."""
    shown = []
    for method, path, _ in routes(world):
        if method != "GET" or path.endswith(("/content", "/logs")):
            continue
        answer = world.client.get(address(world, path), headers=world.theirs)
        if answer.status_code == 200 and MARK in answer.text:
            shown.append(path)
    assert {
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/jobs/{job_id}",
        "/v1/fine_tuning/jobs/{job_id}/events",
        "/v1/models",
        "/v1/files",
        "/v1/files/{file_id}",
        "/v1/uploads/{upload_id}",
        "/v1/keys",
        "/v1/keys/{key_id}",
        "/v1/projects",
        "/v1/audit",
    } <= set(shown), shown


def test_references_in_bodies_reach_nothing_of_another_project(world: World) -> None:
    bodies = [
        ("/v1/embeddings", {"model": THEIRS["model"], "input": ["a"]}),
        ("/v1/fine_tuning/jobs", {"model": THEIRS["model"], "training_file": "/x"}),
        ("/v1/fine_tuning/jobs", {"model": "attune-tiny-32", "training_file": THEIRS["file_id"]}),
        ("/v1/fine_tuning/jobs", {"model": "attune-tiny-32", "training_file": _their_file(world)}),
        ("/v1/fine_tuning/estimate", {"model": "attune-tiny-32", "training_file": _their_file(world)}),
    ]
    for path, body in bodies:
        answer = world.client.post(path, headers=world.ours, json=body)
        assert answer.status_code in (400, 404), (path, body, answer.status_code, answer.text[:300])


def test_the_audit_log_of_a_project_holds_what_was_done_in_it(world: World) -> None:
    world.client.delete(f"/v1/models/{THEIRS['model']}", headers=world.ours)
    entries = world.client.get("/v1/audit", headers=world.ours, params={"limit": 1000}).json()["data"]
    assert {entry["project"] for entry in entries} == {"ours"}
    assert world.client.get("/v1/audit?everywhere=true", headers=world.ours).status_code == 403
    after = world.store.audit.list(project=THEIRS["project_id"])[0][0].id
    assert world.client.get("/v1/audit", headers=world.ours, params={"after": after}).status_code == 404


def test_the_operator_sees_another_project_only_by_naming_it(world: World) -> None:
    key, record = make_key(project="default", name="operator", role=Role.ADMIN)
    world.store.keys.create(record)
    operator = {"Authorization": f"Bearer {key}"}
    path = f"/v1/fine_tuning/jobs/{THEIRS['job_id']}"
    assert world.client.get(path, headers=operator).status_code == 404
    assert world.client.get(path, headers=operator | {"OpenAI-Project": THEIRS["project_id"]}).status_code == 200


def _their_file(world: World) -> str:
    file = world.store.files.get(THEIRS["file_id"])
    assert file is not None
    return file.path


def _state(store: Store) -> str:
    """All rows that hold anything of theirs, but for the audit log, which our attempts may stand in."""
    tables = ("jobs", "models", "files", "uploads", "webhooks", "sweeps", "sweep_trials", "projects")
    with store.database.read() as connection:
        return str({table: connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables})
