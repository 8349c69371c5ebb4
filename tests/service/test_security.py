"""Keys, roles and projects, over HTTP, against the real application."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.security import hash_key, make_key
from service.settings import Settings
from service.store.opening import open_store
from service.store.records import JobRecord, JobStatus, ModelRecord, ProjectRecord, Role
from service.store.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.effective_database_url)


@pytest.fixture
def client(settings: Settings, store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(settings, store=store)) as client:
        yield client


@pytest.fixture
def other(store: Store) -> str:
    return store.projects.create(ProjectRecord(id="other", name="other", created_at=1.0)).id


def key_for(store: Store, project: str = "default", role: Role = Role.MEMBER, **how: Any) -> dict[str, str]:
    key, record = make_key(project=project, name="test", role=role, **how)
    store.keys.create(record)
    return {"Authorization": f"Bearer {key}"}


def a_job(store: Store, name: str, project: str) -> JobRecord:
    given = {"id": name, "spec": {}, "model": "m", "job_dir": "/x", "created_at": 1.0, "project_id": project}
    record = JobRecord(status=JobStatus.PAUSED, **given)
    return store.jobs.create(record)


def test_without_any_key_this_machine_may_do_everything(client: TestClient) -> None:
    assert client.get("/v1/models").status_code == 200


def test_once_there_is_a_key_everybody_needs_one(client: TestClient, store: Store) -> None:
    headers = key_for(store)
    refused = client.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/models", headers={"Authorization": "Bearer ak-wrong"}).status_code == 401
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_keys_expire_and_are_revoked(client: TestClient, store: Store) -> None:
    lasting = key_for(store)
    assert client.get("/v1/models", headers=key_for(store, lifetime_s=100.0)).status_code == 200
    assert client.get("/v1/models", headers=key_for(store, lifetime_s=-1.0)).status_code == 401
    assert client.get("/v1/models", headers=lasting).status_code == 200
    found = store.keys.find(hash_key(lasting["Authorization"].removeprefix("Bearer ")))
    assert found is not None
    store.keys.end(found.id, at=time.time())
    assert client.get("/v1/models", headers=lasting).status_code == 401


def test_when_the_last_key_has_ended_nobody_gets_in_without_one(client: TestClient, store: Store) -> None:
    key_for(store, lifetime_s=-1.0)
    assert client.get("/v1/models").status_code == 401


def test_the_database_holds_no_key(store: Store) -> None:
    key = key_for(store)["Authorization"].removeprefix("Bearer ")
    with store.database.read() as connection:
        rows = str(connection.exec_driver_sql("SELECT * FROM api_keys").all())
    assert key not in rows
    assert hash_key(key) in rows


def test_a_project_sees_nothing_of_another(client: TestClient, store: Store, other: str) -> None:
    ours, theirs = key_for(store), key_for(store, other)
    a_job(store, "ftjob-ours", "default")
    a_job(store, "ftjob-theirs", other)
    store.models.add(ModelRecord(id="ft:m:theirs", path="/x", task="clip", created_at=1.0, project_id=other))
    assert [job["id"] for job in client.get("/v1/fine_tuning/jobs", headers=ours).json()["data"]] == ["ftjob-ours"]
    assert client.get("/v1/models", headers=ours).json()["data"] == []
    for path in ("", "/events", "/checkpoints", "/logs"):
        answer = client.get(f"/v1/fine_tuning/jobs/ftjob-theirs{path}", headers=ours)
        assert (answer.status_code, "ftjob-theirs" in answer.json()["error"]["message"]) == (404, True)
    for verb in ("cancel", "pause", "resume"):
        assert client.post(f"/v1/fine_tuning/jobs/ftjob-theirs/{verb}", headers=ours).status_code == 404
    assert client.get("/v1/models/ft:m:theirs", headers=ours).status_code == 404
    assert client.delete("/v1/models/ft:m:theirs", headers=ours).status_code == 404
    assert client.get("/v1/models/ft:m:theirs", headers=theirs).status_code == 200
    unknown = client.get("/v1/fine_tuning/jobs/ftjob-nobodys", headers=ours).json()["error"]["message"]
    hidden = client.get("/v1/fine_tuning/jobs/ftjob-theirs", headers=ours).json()["error"]["message"]
    assert unknown.replace("nobodys", "theirs") == hidden


def test_an_operator_acts_in_any_project_and_others_in_their_own(client: TestClient, store: Store, other: str) -> None:
    a_job(store, "ftjob-theirs", other)
    operator, member = key_for(store, role=Role.ADMIN), key_for(store)
    there = {"OpenAI-Project": other}
    assert client.get("/v1/fine_tuning/jobs/ftjob-theirs", headers=operator | there).status_code == 200
    assert client.get("/v1/fine_tuning/jobs/ftjob-theirs", headers=operator).status_code == 404
    assert client.get("/v1/fine_tuning/jobs/ftjob-theirs", headers=member | there).status_code == 403
    assert client.get("/v1/models", headers=operator | {"OpenAI-Project": "nowhere"}).status_code == 403
    assert client.get("/v1/models", headers=member | {"OpenAI-Project": "default"}).status_code == 200


def test_viewers_read_and_ask_and_change_nothing(client: TestClient, store: Store) -> None:
    viewer, member = key_for(store, role=Role.VIEWER), key_for(store)
    job = a_job(store, "ftjob-1", "default")
    assert client.get(f"/v1/fine_tuning/jobs/{job.id}", headers=viewer).status_code == 200
    refused = client.post(f"/v1/fine_tuning/jobs/{job.id}/cancel", headers=viewer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    asked = client.post("/v1/embeddings", headers=viewer, json={"model": "none", "input": ["a"]})
    assert asked.status_code == 404
    assert client.post(f"/v1/fine_tuning/jobs/{job.id}/cancel", headers=member).status_code == 200
    found = store.jobs.get(job.id)
    assert found is not None
    assert found.visible_status is JobStatus.CANCELLED
