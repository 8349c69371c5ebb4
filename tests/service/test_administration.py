"""Keys and projects over REST and on the command line; limits, foreign web pages, headers and the audit log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.cli.main import run
from service.errors import TooManyRequests
from service.rate_limits import RateLimit
from service.security import make_key
from service.settings import Settings
from service.startup import StartError, open_store
from service.store.records import AuditRecord, JobRecord, JobStatus, ProjectRecord, Role
from service.store.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings)


@pytest.fixture
def client(settings: Settings, store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(settings, store=store)) as client:
        yield client


def headers_of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def key_for(store: Store, project: str = "default", role: Role = Role.ADMIN) -> dict[str, str]:
    key, record = make_key(project=project, name="test", role=role)
    store.keys.create(record)
    return headers_of(key)


def test_a_key_is_made_rotated_without_a_gap_and_revoked(client: TestClient, store: Store) -> None:
    admin = key_for(store)
    made = client.post("/v1/keys", headers=admin, json={"name": "ci", "role": "viewer", "expires_in_s": 1000}).json()
    old = headers_of(made["key"])
    assert client.get("/v1/models", headers=old).status_code == 200
    shown = client.get("/v1/keys", headers=admin)
    assert made["id"] in shown.text
    assert made["key"] not in shown.text
    rotated = client.post(f"/v1/keys/{made['id']}/rotate", headers=admin, json={"overlap_s": 300}).json()
    assert (rotated["role"], rotated["name"], rotated["replaces"]) == ("viewer", "ci", made["id"])
    assert rotated["expires_at"] - rotated["created_at"] == 1000
    for key in (old, headers_of(rotated["key"])):
        assert client.get("/v1/models", headers=key).status_code == 200
    ends = client.get(f"/v1/keys/{made['id']}", headers=admin).json()["expires_at"]
    assert abs(ends - (time.time() + 300)) < 30
    client.post(f"/v1/keys/{made['id']}/rotate", headers=admin, json={"overlap_s": 0})
    assert client.get("/v1/models", headers=old).status_code == 401
    assert client.post(f"/v1/keys/{made['id']}/rotate", headers=admin).status_code == 409
    assert client.delete(f"/v1/keys/{rotated['id']}", headers=admin).json()["revoked_at"] is not None
    assert client.get("/v1/models", headers=headers_of(rotated["key"])).status_code == 401


def test_keys_are_for_administrators_and_projects_for_operators(client: TestClient, store: Store) -> None:
    store.projects.create(ProjectRecord(id="vision", name="vision", created_at=1.0))
    operator, theirs, member = key_for(store), key_for(store, "vision"), key_for(store, role=Role.MEMBER)
    assert client.get("/v1/keys", headers=member).status_code == 403
    assert client.post("/v1/keys", headers=member, json={"name": "x"}).status_code == 403
    assert client.post("/v1/projects/vision", headers=theirs, json={"max_devices": 99}).status_code == 403
    assert client.post("/v1/projects", headers=theirs, json={"id": "mine"}).status_code == 403
    made = client.post("/v1/keys", headers=theirs, json={"name": "x", "role": "admin"}).json()
    assert made["project"] == "vision"
    assert client.get("/v1/projects", headers=headers_of(made["key"])).json()["data"][0]["id"] == "vision"
    there = operator | {"OpenAI-Project": "vision"}
    assert {key["project"] for key in client.get("/v1/keys", headers=there).json()["data"]} == {"vision"}


def test_quotas_are_set_and_taken_away(client: TestClient, store: Store) -> None:
    operator = key_for(store)
    made = client.post("/v1/projects", headers=operator, json={"id": "vision", "max_devices": 4, "weight": 2.5})
    assert (made.json()["max_devices"], made.json()["weight"]) == (4, 2.5)
    changed = client.post(
        "/v1/projects/vision", headers=operator, json={"max_devices": None, "max_queued_jobs": 7, "weight": None}
    ).json()
    assert (changed["max_devices"], changed["max_queued_jobs"], changed["weight"]) == (None, 7, 2.5)
    assert client.post("/v1/projects", headers=operator, json={"id": "vision"}).status_code == 409
    assert client.post("/v1/projects", headers=operator, json={"id": "../x"}).status_code == 422
    assert client.post("/v1/projects/vision", headers=operator, json={}).status_code == 400
    assert client.post("/v1/projects/none", headers=operator, json={"weight": 1}).status_code == 404


def attune(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> Any:
    code = run([*words, "--data-dir", str(folder), *(["--json"] if words[1:2] != ("revoke",) else [])])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out) if out.startswith(("{", "[")) else out


def test_the_command_line_works_on_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attune(capsys, tmp_path, "projects", "create", "vision", "--max-devices", "4")
    made = attune(capsys, tmp_path, "keys", "create", "--name", "ci", "--role", "admin", "--project", "vision")
    changed = attune(capsys, tmp_path, "projects", "set", "vision", "weight=3", "max_devices=none")
    assert (changed["weight"], changed["max_devices"]) == (3.0, None)
    rotated = attune(capsys, tmp_path, "keys", "rotate", made["id"], "--overlap", "60")
    listed = attune(capsys, tmp_path, "keys", "list")
    assert [key["id"] for key in listed] == [rotated["id"], made["id"]]
    assert made["key"] not in json.dumps(listed)
    assert "revoked" in attune(capsys, tmp_path, "keys", "revoke", made["id"])
    with TestClient(create_app(Settings(data_dir=tmp_path))) as client:
        assert client.get("/v1/models", headers=headers_of(made["key"])).status_code == 401
        assert client.get("/v1/models", headers=headers_of(rotated["key"])).status_code == 200
    assert run(["keys", "create", "--project", "nowhere", "--data-dir", str(tmp_path)]) == 4
    assert run(["keys", "create", "--role", "king", "--data-dir", str(tmp_path)]) == 2
    assert run(["projects", "set", "vision", "weight=heavy", "--data-dir", str(tmp_path)]) == 2
    capsys.readouterr()
    told = [(entry["action"], entry["outcome"], entry["actor"]) for entry in attune(capsys, tmp_path, "audit")]
    assert told == [
        ("key.create", "refused", "operator"),
        ("key.revoke", "ok", "operator"),
        ("key.rotate", "ok", "operator"),
        ("project.set", "ok", "operator"),
        ("key.create", "ok", "operator"),
        ("project.create", "ok", "operator"),
    ]


def test_strangers_are_let_near_only_where_there_is_a_valid_key(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    with pytest.raises(StartError, match=r"attune keys create"):
        open_store(settings)
    store = open_store(Settings(data_dir=tmp_path))
    ended, record = make_key(project="default", name="old", role=Role.ADMIN, lifetime_s=-1.0)
    store.keys.create(record)
    with pytest.raises(StartError, match=r"no valid API key"):
        open_store(settings)
    key_for(store)
    store.close()
    open_store(settings).close()


def test_the_metrics_are_an_operators_where_others_reach_the_service(tmp_path: Path, store: Store) -> None:
    operator, member = key_for(store), key_for(store, role=Role.MEMBER)
    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    with TestClient(create_app(settings, store=store)) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=member).status_code == 403
        assert "attune_jobs" in client.get("/metrics", headers=operator).text
        assert client.get("/healthz").status_code == 200


def test_a_bucket_empties_and_fills_again() -> None:
    now = [0.0]
    limit = RateLimit(60.0, what="requests", clock=lambda: now[0])
    for _ in range(10):
        limit.take("a")
    with pytest.raises(TooManyRequests) as caught:
        limit.take("a")
    assert caught.value.headers() == {"Retry-After": "1"}
    limit.take("b")
    now[0] += 1.0
    limit.take("a")
    with pytest.raises(TooManyRequests):
        limit.take("a")


def test_too_many_requests_and_submissions_are_told_when_to_come_back(tmp_path: Path, store: Store) -> None:
    keyed, other = key_for(store), key_for(store)
    settings = Settings(data_dir=tmp_path, requests_per_minute=120, submissions_per_minute=12)
    with TestClient(create_app(settings, store=store)) as client:
        posts = [client.post("/v1/fine_tuning/jobs", headers=keyed, json={}) for _ in range(4)]
        assert [answer.status_code for answer in posts] == [400, 400, 429, 429]
        assert posts[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert int(posts[-1].headers["retry-after"]) >= 1
        reads = [client.get("/v1/models", headers=keyed).status_code for _ in range(25)]
        assert reads[0] == 200
        assert reads[-1] == 429
        assert client.get("/v1/models", headers=other).status_code == 200
        wrong = [client.get("/v1/models", headers=headers_of("ak-wrong")).status_code for _ in range(15)]
        assert (wrong[0], wrong[-1]) == (401, 429)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"host": "rebound.evil.example:8321"},
    ],
)
def test_without_keys_web_pages_from_elsewhere_get_nothing(
    client: TestClient, store: Store, headers: dict[str, str]
) -> None:
    store.jobs.create(
        JobRecord(id="ftjob-1", spec={}, model="m", job_dir="/x", created_at=1.0, status=JobStatus.PAUSED)
    )
    assert client.post("/v1/fine_tuning/jobs/ftjob-1/cancel", headers=headers).status_code == 403
    assert client.get("/v1/models", headers=headers).status_code == 403
    for own in (
        {"host": "127.0.0.1:8321"},
        {"host": "localhost"},
        {"host": "[::1]:8321", "origin": "http://[::1]:8321"},
    ):
        assert client.get("/v1/models", headers=own).status_code == 200


def test_answers_carry_security_headers_and_no_cross_origin_ones(client: TestClient) -> None:
    answer = client.get("/v1/models")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    assert "script-src" in client.get("/docs").headers["content-security-policy"]
    assert client.get("/nowhere").headers["x-frame-options"] == "DENY"


def test_origins_that_the_operator_names_are_let_in(tmp_path: Path, store: Store) -> None:
    settings = Settings(data_dir=tmp_path, cors_origins=("https://ui.example.org",))
    with TestClient(create_app(settings, store=store)) as client:
        named = client.get("/v1/models", headers={"origin": "https://ui.example.org"})
        assert (named.status_code, named.headers["access-control-allow-origin"]) == (200, "https://ui.example.org")
        assert (
            "access-control-allow-origin" not in client.get("/v1/models", headers={"origin": "https://x.org"}).headers
        )


def test_changes_and_refused_ones_are_in_the_audit_log(client: TestClient, store: Store) -> None:
    admin, viewer = key_for(store), key_for(store, role=Role.VIEWER)
    store.jobs.create(
        JobRecord(id="ftjob-1", spec={}, model="m", job_dir="/x", created_at=1.0, status=JobStatus.PAUSED)
    )
    cancelled = client.post("/v1/fine_tuning/jobs/ftjob-1/cancel", headers=admin)
    client.post("/v1/fine_tuning/jobs/ftjob-1/cancel", headers=viewer)
    client.post("/v1/fine_tuning/jobs/ftjob-1/cancel")
    client.get("/v1/models", headers=admin)
    client.post("/v1/embeddings", headers=viewer, json={"model": "none", "input": ["a"]})
    key = client.post("/v1/keys", headers=admin, json={"name": "ci"}).json()
    entries = client.get("/v1/audit?everywhere=true", headers=admin).json()["data"]
    told = [(entry["action"], entry["target"], entry["outcome"]) for entry in entries]
    assert told == [
        ("key.create", key["id"], "ok"),
        ("POST /v1/fine_tuning/jobs/ftjob-1/cancel", None, "refused"),
        ("job.cancel", "ftjob-1", "refused"),
        ("job.cancel", "ftjob-1", "ok"),
    ]
    assert [entry["actor"] for entry in entries][1] == "unknown"
    assert entries[0]["actor"] == entries[3]["actor"] == store.keys.list()[-1].id
    assert entries[3]["request_id"] == cancelled.headers["x-request-id"]
    assert entries[2]["detail"]["status"] == 403
    assert key["key"] not in json.dumps(entries)
    page = client.get("/v1/audit", headers=admin, params={"action": "job.cancel", "limit": 1}).json()
    assert (len(page["data"]), page["has_more"]) == (1, True)


def test_the_audit_log_is_forgotten_after_its_time(tmp_path: Path, store: Store) -> None:
    for at in (time.time() - 100, time.time()):
        store.audit.append(AuditRecord(at=at, actor="a", action="job.create", outcome="ok"))
    settings = Settings(data_dir=tmp_path, audit_lifetime_s=50)
    with TestClient(create_app(settings, store=store)):
        deadline = time.time() + 10
        while len(store.audit.list()[0]) > 1 and time.time() < deadline:
            time.sleep(0.02)
        assert len(store.audit.list()[0]) == 1
