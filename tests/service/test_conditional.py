"""Entity tags, idempotency keys, artifacts and estimates' refusals over HTTP."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from service import idempotency
from service.app import create_app
from service.jobs import submission
from service.settings import Settings
from service.store.records import CheckpointRecord, JobRecord, JobStatus, ModelRecord
from service.store.store import Store

JOBS = "/v1/fine_tuning/jobs"
BODY = {"model": "attune-tiny-32", "recipe": "flyp", "training_file": "/nowhere", "spec": {"batch": {"global_size": 8}}}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(Settings(data_dir=tmp_path / "attune", poll_interval_s=60.0))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def store(client: TestClient) -> Store:
    found: Store = client.app.state.store  # type: ignore[attr-defined]
    return found


@pytest.fixture
def job(store: Store, tmp_path: Path) -> JobRecord:
    folder = tmp_path / "job"
    for name, content in {
        "spec.json": "{}",
        "export/model.safetensors": "0123456789",
        "checkpoints/step-1-attempt-1/checkpoint.json": "{}",
        "checkpoints/.step-2-attempt-1.partial/x": "half",
        "attempts/0001/worker.log": "a line\n",
        "attempts/0001/events.jsonl": "{}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (tmp_path / "secret").write_text("nobody's business")
    (folder / "link").symlink_to(tmp_path / "secret")
    given = {"spec": {}, "model": "ViT-B-32", "job_dir": str(folder), "created_at": 1.0}
    return store.jobs.create(JobRecord(id="ftjob-0123456789", status=JobStatus.PAUSED, **given))


def test_a_thing_that_has_not_changed_is_not_sent_again(client: TestClient, store: Store, job: JobRecord) -> None:
    store.models.add(ModelRecord(id="ft:m", path="/x", task="clip", created_at=1.0))
    file = client.post("/v1/files", files={"file": ("a.csv", b"x")}, data={"purpose": "vision"}).json()
    for path in (f"{JOBS}/{job.id}", "/v1/models/ft:m", f"/v1/files/{file['id']}"):
        tag = client.get(path).headers["etag"]
        same = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_thing_that_has_changed_is_not_changed_again(client: TestClient, store: Store, job: JobRecord) -> None:
    old = client.get(f"{JOBS}/{job.id}").headers["etag"]
    store.jobs.update(job.id, estimated_finish=5.0)
    refused = client.post(f"{JOBS}/{job.id}/cancel", headers={"If-Match": old})
    assert (refused.status_code, refused.json()["error"]["code"]) == (412, "precondition_failed")
    found = store.jobs.get(job.id)
    assert found is not None
    assert not found.cancel_requested
    tag = client.get(f"{JOBS}/{job.id}").headers["etag"]
    assert client.post(f"{JOBS}/{job.id}/cancel", headers={"If-Match": tag}).status_code == 200
    store.models.add(ModelRecord(id="ft:m", path="/x", task="clip", created_at=1.0))
    assert client.delete("/v1/models/ft:m", headers={"If-Match": '"old"'}).status_code == 412
    assert client.delete("/v1/models/ft:m", headers={"If-Match": "*"}).status_code == 200


def test_a_second_request_under_a_key_waits_for_the_first(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go = threading.Event(), threading.Event()
    resolve = submission.resolve

    def slowly(**given: Any) -> Any:
        arrived.set()
        assert go.wait(20)
        return resolve(**given)

    monkeypatch.setattr(submission, "resolve", slowly)
    headers = {"Idempotency-Key": "a"}
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.post(JOBS, json=BODY, headers=headers)))
    first.start()
    assert arrived.wait(20)
    second = client.post(JOBS, json=BODY, headers=headers)
    go.set()
    first.join()
    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert (second.headers["x-should-retry"], second.headers["retry-after"]) == ("true", "1")
    third = client.post(JOBS, json=BODY, headers=headers)
    assert (third.status_code, third.text) == (answers[0].status_code, answers[0].text)
    assert third.headers["idempotent-replayed"] == "true"
    assert len(store.jobs.list()[0]) == 1


def test_a_request_whose_service_died_is_done_once(client: TestClient, store: Store) -> None:
    headers = {"Idempotency-Key": "a"}
    made = client.post(JOBS, json=BODY, headers=headers).json()
    record, ours = store.idempotency.claim("a", project="default", fingerprint="x", lifetime_s=1e6, patience_s=0.0)
    assert not ours
    with store.database.write() as connection:  # as a service that dies before it answers leaves it
        connection.exec_driver_sql("UPDATE idempotency_keys SET status = NULL, claimed_at = claimed_at - 1000")
    again = client.post(JOBS, json=BODY, headers=headers)
    assert "idempotent-replayed" not in again.headers
    assert again.json()["id"] == made["id"]
    assert len(store.jobs.list()[0]) == 1
    assert record.status == 200


def test_a_request_that_failed_after_its_commit_is_done_once(client: TestClient, store: Store) -> None:
    create, headers = store.jobs.create, {"Idempotency-Key": "a"}

    def answered_by_a_lost_connection(record: Any, **given: Any) -> Any:
        create(record, **given)
        raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    store.jobs.create = answered_by_a_lost_connection  # type: ignore[method-assign]
    assert client.post(JOBS, json=BODY, headers=headers).status_code == 500
    store.jobs.create = create  # type: ignore[method-assign]
    (made,), _ = store.jobs.list()
    again = client.post(JOBS, json=BODY, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, made.id)
    assert len(store.jobs.list()[0]) == 1


def test_a_repetition_that_is_refused_keeps_its_seed(client: TestClient, store: Store) -> None:
    """What failed the first time may have been done; only a first try that is refused has surely done nothing."""
    first, _ = store.idempotency.claim("a", project="default", fingerprint="x", lifetime_s=1e6, patience_s=60.0)
    store.idempotency.let_go(first)
    again, ours = store.idempotency.claim("a", project="default", fingerprint="x", lifetime_s=1e6, patience_s=60.0)
    assert ours
    assert again.created_at == first.created_at
    assert (first.is_first, again.is_first) == (True, False)


def test_an_upload_whose_service_died_is_begun_once(client: TestClient, store: Store) -> None:
    body = {"filename": "a.zip", "purpose": "fine-tune", "bytes": 3, "mime_type": "application/zip"}
    headers = {"Idempotency-Key": "u"}
    made = client.post("/v1/uploads", json=body, headers=headers)
    assert made.status_code == 200, made.text
    with store.database.write() as connection:  # as a service that dies before it answers leaves it
        connection.exec_driver_sql("UPDATE idempotency_keys SET status = NULL, claimed_at = claimed_at - 1000")
    again = client.post("/v1/uploads", json=body, headers=headers)
    assert "idempotent-replayed" not in again.headers
    assert again.json() == made.json()


def test_the_clock_of_a_replica_takes_no_key_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim() -> bool:
        return store.idempotency.claim("a", project="default", fingerprint="x", lifetime_s=1e6, patience_s=60.0)[1]

    assert claim()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert not claim()


def test_a_request_that_takes_long_keeps_its_key(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_PATIENCE_S", 0.4)
    resolve, answers = submission.resolve, []

    def slowly(**given: Any) -> Any:
        time.sleep(1.0)
        return resolve(**given)

    monkeypatch.setattr(submission, "resolve", slowly)
    headers = {"Idempotency-Key": "a"}
    first = threading.Thread(target=lambda: answers.append(client.post(JOBS, json=BODY, headers=headers)))
    first.start()
    time.sleep(0.7)  # longer than the patience of those who do not hear of it
    second = client.post(JOBS, json=BODY, headers=headers)
    first.join()
    assert (second.status_code, answers[0].status_code) == (409, 200)
    third = client.post(JOBS, json=BODY, headers=headers)
    assert (third.text, third.headers["idempotent-replayed"]) == (answers[0].text, "true")


def test_a_refused_request_frees_its_key(client: TestClient) -> None:
    headers = {"Idempotency-Key": "a"}
    assert client.post(JOBS, json={**BODY, "seed": -1}, headers=headers).status_code == 422
    assert client.post(JOBS, json={**BODY, "recipe": "flip"}, headers=headers).status_code == 400
    assert client.post(JOBS, json=BODY, headers=headers).status_code == 200
    assert client.post(JOBS, json=BODY, headers={"Idempotency-Key": "x" * 256}).status_code == 422


def test_keys_are_forgotten_in_time(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, poll_interval_s=60.0, idempotency_lifetime_s=0.01))
    with TestClient(app, base_url="http://localhost") as client:
        ids = set()
        for _ in range(2):
            ids.add(client.post(JOBS, json=BODY, headers={"Idempotency-Key": "a"}).json()["id"])
            time.sleep(0.05)
    assert len(ids) == 2


def test_artifacts_are_listed_and_downloaded(client: TestClient, job: JobRecord) -> None:
    base = f"{JOBS}/{job.id}/artifacts"
    listed = client.get(base).json()["data"]
    assert {entry["id"]: entry["kind"] for entry in listed} == {
        "attempts/0001/events.jsonl": "events",
        "attempts/0001/worker.log": "log",
        "checkpoints/step-1-attempt-1/checkpoint.json": "checkpoint",
        "export/model.safetensors": "model",
        "spec.json": "other",
    }
    page = client.get(base, params={"limit": 2, "after": "attempts/0001/events.jsonl"}).json()
    assert ([entry["id"] for entry in page["data"]], page["has_more"]) == ([e["id"] for e in listed[1:3]], True)
    assert len(client.get(base, params={"prefix": "export/"}).json()["data"]) == 1
    model = f"{base}/export/model.safetensors"
    assert client.get(model, headers={"Range": "bytes=3-5"}).content == b"345"
    tag = client.get(model).headers["etag"]
    assert client.get(model, headers={"If-None-Match": tag}).status_code == 304


def test_a_folder_comes_as_an_archive(client: TestClient, job: JobRecord) -> None:
    answer = client.get(f"{JOBS}/{job.id}/artifacts/checkpoints")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == ["checkpoints/step-1-attempt-1/checkpoint.json"]


@pytest.mark.parametrize(
    "path", ["link", "%2e%2e/secret", "..%2Fsecret", "/etc/passwd", "%2Fetc%2Fpasswd", "nothing", "a%00b"]
)
def test_no_name_leads_out_of_the_job_folder(client: TestClient, job: JobRecord, path: str) -> None:
    answer = client.get(f"{JOBS}/{job.id}/artifacts/{path}")
    assert answer.status_code == 404
    assert "business" not in answer.text


def test_a_checkpoint_that_is_gone_is_not_promoted(client: TestClient, store: Store, job: JobRecord) -> None:
    with store.database.write() as connection:
        from service.store.rows import values_of
        from service.store.tables import checkpoints

        record = CheckpointRecord(
            id="ftckpt-1",
            job_id=job.id,
            step_number=9,
            name="step-9-attempt-1",
            metrics={},
            created_at=1.0,
            fine_tuned_model_checkpoint=f"{job.id}:ckpt-step-9-attempt-1",
        )
        connection.execute(checkpoints.insert().values(**values_of(record)))
    base = f"{JOBS}/{job.id}/checkpoints"
    assert client.get(f"{base}/ftckpt-1").json()["step_number"] == 9
    assert client.get(f"{base}/ftckpt-1/promotion").status_code == 404
    assert client.post(f"{base}/ftckpt-1/promote").json()["error"]["code"] == "conflict"
    assert client.post(f"{base}/ftckpt-2/promote").status_code == 404


def test_a_method_that_is_not_there_is_answered_with_all_that_are(client: TestClient) -> None:
    answer = client.patch("/v1/uploads/upload_1/parts")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


def test_every_operation_says_how_it_refuses(client: TestClient) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            assert not path.startswith("/v1/") or "4XX" in operation["responses"]
