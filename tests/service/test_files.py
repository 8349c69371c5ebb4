"""Files and uploads over HTTP."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.jobs import lifecycle
from service.settings import Settings
from service.store.records import FileRecord, JobRecord, JobStatus, ProjectRecord

FILES, UPLOADS, JOBS = "/v1/files", "/v1/uploads", "/v1/fine_tuning/jobs"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    clients = []

    def start(**settings: Any) -> TestClient:
        app = create_app(Settings(data_dir=tmp_path / "attune", **settings))
        clients.append(client := TestClient(app, base_url="http://localhost"))
        client.__enter__()
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start: Callable[..., TestClient]) -> TestClient:
    return start()


def send(client: TestClient, content: bytes = b"image,caption\n", name: str = "a.csv", **fields: str) -> httpx.Response:
    return client.post(FILES, files={"file": (name, content)}, data={"purpose": "fine-tune", **fields})


def leftovers(client: TestClient) -> list[str]:
    root = client.app.state.settings.files_dir  # type: ignore[attr-defined]
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()] if root.exists() else []


def test_a_file_comes_back_as_it_was_sent(client: TestClient) -> None:
    content = bytes(range(256)) * 20_000  # several flushes to the disk
    sent = send(client, content, "photos ü.bin")
    assert sent.status_code == 200, sent.text
    file = sent.json()
    assert (file["object"], file["bytes"], file["status"]) == ("file", len(content), "processed")
    assert (file["filename"], file["sha256"]) == ("photos ü.bin", hashlib.sha256(content).hexdigest())
    assert client.get(f"{FILES}/{file['id']}").json() == file
    download = client.get(f"{FILES}/{file['id']}/content")
    assert download.content == content
    assert download.headers["etag"] == f'"{file["sha256"]}"'
    assert client.delete(f"{FILES}/{file['id']}").json() == {"id": file["id"], "object": "file", "deleted": True}
    assert client.get(f"{FILES}/{file['id']}").status_code == 404
    assert leftovers(client) == []


@pytest.mark.parametrize(
    ("wanted", "status", "got"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=4-2", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(client: TestClient, wanted: str, status: int, got: bytes | None) -> None:
    file = send(client, b"0123456789").json()
    answer = client.get(f"{FILES}/{file['id']}/content", headers={"Range": wanted})
    assert answer.status_code == status
    if got is None:
        assert answer.headers["content-range"] == "bytes */10"
        assert answer.json()["error"]["code"] == "range_not_satisfiable"
    else:
        assert answer.content == got


def test_a_range_of_a_file_that_has_changed_is_the_whole(client: TestClient) -> None:
    path = f"{FILES}/{send(client, b'0123456789').json()['id']}/content"
    tag = client.get(path).headers["etag"]
    for given, status in ((tag, 206), ('"other"', 200)):
        assert client.get(path, headers={"Range": "bytes=2-4", "If-Range": given}).status_code == status
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_lists_are_paged_in_both_orders_and_by_purpose(client: TestClient) -> None:
    ids = [send(client, purpose=purpose).json()["id"] for purpose in ("fine-tune", "vision", "fine-tune")]
    assert [file["id"] for file in client.get(FILES).json()["data"]] == ids[::-1]
    page = client.get(FILES, params={"order": "asc", "limit": 2}).json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:2], True)
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[1])
    rest = client.get(FILES, params={"order": "asc", "after": page["last_id"]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2:], False)
    assert [file["id"] for file in client.get(FILES, params={"purpose": "vision"}).json()["data"]] == [ids[1]]
    assert client.get(FILES, params={"after": "file-none"}).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"purpose": "batch"}, 422, "purpose"),
        ({"purpose": "fine-tune", "expires_after[anchor]": "created_at"}, 422, "expires_after.seconds"),
        ({"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, 422, None),
        ({"purpose": "fine-tune", "colour": "red"}, 422, "colour"),
    ],
)
def test_wrong_fields_are_refused_and_leave_nothing(
    client: TestClient, fields: dict[str, str], status: int, param: str | None
) -> None:
    answer = client.post(FILES, files={"file": ("a.csv", b"x")}, data=fields)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == (param or "expires_after.seconds")
    assert leftovers(client) == []


def test_what_is_no_form_is_refused(client: TestClient) -> None:
    assert client.post(FILES, json={"purpose": "fine-tune"}).json()["error"]["code"] == "invalid_form"
    assert client.post(FILES, data={"purpose": "fine-tune"}).status_code == 400
    torn = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post(FILES, content=torn, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_form")
    assert send(client, b"").json()["error"]["code"] == "invalid_file"
    assert leftovers(client) == []


def test_a_file_over_the_limit_is_refused(start: Callable[..., TestClient]) -> None:
    client = start(max_file_bytes=1000)
    assert send(client, b"x" * 1000).status_code == 200
    before = leftovers(client)
    answer = send(client, b"x" * 1001)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert leftovers(client) == before


def test_a_project_keeps_no_more_than_it_may(client: TestClient) -> None:
    store = client.app.state.store  # type: ignore[attr-defined]
    store.projects.create(ProjectRecord(id="small", name="small", created_at=1.0, max_disk_bytes=10))
    headers = {"OpenAI-Project": "small"}
    files = {"file": ("a.csv", b"123456")}
    assert client.post(FILES, files=files, data={"purpose": "vision"}, headers=headers).status_code == 200
    answer = client.post(FILES, files=files, data={"purpose": "vision"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "quota_exceeded")
    assert client.get(FILES).json()["data"] == []


def test_expired_files_are_gone(client: TestClient) -> None:
    store = client.app.state.store  # type: ignore[attr-defined]
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    kept = send(client, **fields).json()
    assert kept["expires_at"] - kept["created_at"] == 3600
    folder = client.app.state.files.storage.root / "default" / "file-old"  # type: ignore[attr-defined]
    (folder / "content").mkdir(parents=True)
    given = {"filename": "a", "purpose": "vision", "status": "processed", "num_bytes": 1, "sha256": "0"}
    path = str(folder / "content/a")
    store.files.add(FileRecord(id="file-old", project_id="default", path=path, created_at=1.0, expires_at=2.0, **given))
    assert client.get(f"{FILES}/file-old").status_code == 404
    client.app.state.files.remove_expired()  # type: ignore[attr-defined]
    assert not folder.exists()


def test_an_expired_file_stays_while_a_job_reads_it(client: TestClient) -> None:
    store, files = client.app.state.store, client.app.state.files  # type: ignore[attr-defined]
    sent = send(client, name="ü.csv").json()
    record = store.files.get(sent["id"])
    spec = {"data": {"train": record.path}}
    job = JobRecord(id="ftjob-x", spec=spec, model="m", job_dir="/x", created_at=1.0, status=JobStatus.QUEUED)
    store.jobs.create(job)
    store.files.delete(record.id)
    store.files.add(replace(record, expires_at=2.0))
    files.remove_expired()
    assert Path(record.path).exists()
    lifecycle.fail(store, job.id, code="error", message="it ended")
    files.remove_expired()
    assert not Path(record.path).exists()


def test_what_a_killed_service_left_is_removed_after_a_day(client: TestClient) -> None:
    root = client.app.state.files.storage.root / "default"  # type: ignore[attr-defined]
    kept = send(client).json()["id"]
    left = [root / f"file-{'0' * 24}", root / ".file-1.removed", root / "upload_nobody"]
    for folder in [*left, root / kept]:
        (folder / "content").mkdir(parents=True, exist_ok=True)
        os.utime(folder, (1.0, 1.0))
    client.app.state.files.remove_expired()  # type: ignore[attr-defined]
    assert [folder for folder in left if folder.exists()] == []
    assert (root / kept).exists()


def test_the_quota_counts_what_is_unpacked_and_what_is_to_come(client: TestClient) -> None:
    store = client.app.state.store  # type: ignore[attr-defined]
    store.projects.update("default", max_disk_bytes=1_000_000)
    answer = send(client, zipped(**{"a.jpg": bytes(2_000_000)}), "a.zip")
    assert (answer.status_code, "more than allowed" in answer.json()["error"]["message"]) == (400, True)
    assert send(client, zipped(**{"a.jpg": bytes(600_000)}), "a.zip").status_code == 200
    body = {"filename": "a", "purpose": "vision", "bytes": 300_000, "mime_type": "x/y"}
    assert client.post(UPLOADS, json=body).status_code == 200
    refused = client.post(UPLOADS, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "quota_exceeded")


def zipped(**entries: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, arcname="images")
    return content.getvalue()


def test_a_job_reads_the_folder_in_an_archive(client: TestClient, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.jpg").write_bytes(b"x")
    file = send(client, tarred(tmp_path / "images"), "images.tar.gz").json()
    table = send(client, b"image,caption\n", "captions.csv").json()
    body = {"model": "attune-tiny-32", "recipe": "flyp", "training_file": file["id"]}
    body |= {"validation_file": table["id"], "spec": {"batch": {"global_size": 8}}}
    job = client.post(JOBS, json=body).json()
    assert (job["training_file"], job["validation_file"]) == (file["id"], table["id"])
    train = Path(job["spec"]["data"]["train"]["path"])
    assert sorted(path.name for path in train.iterdir()) == ["cat", "dog"]
    assert job["spec"]["data"]["validation"]["format"] == "csv"
    assert client.delete(f"{FILES}/{file['id']}").json()["error"]["code"] == "conflict"
    unknown = client.post(JOBS, json=body | {"training_file": "file-" + "0" * 24}).json()["error"]
    assert (unknown["param"], unknown["code"]) == ("data.train", "invalid_spec")


def test_a_job_reads_no_file_of_another_project(client: TestClient) -> None:
    store = client.app.state.store  # type: ignore[attr-defined]
    store.projects.create(ProjectRecord(id="other", name="other", created_at=1.0))
    file = send(client).json()
    headers = {"OpenAI-Project": "other"}
    body = {"model": "attune-tiny-32", "recipe": "flyp", "training_file": file["id"]}
    answer = client.post(JOBS, json=body, headers=headers)
    assert (answer.status_code, "there is no file" in answer.text) == (400, True)
    for path in ("", "/content"):
        assert client.get(f"{FILES}/{file['id']}{path}", headers=headers).status_code == 404
    assert client.delete(f"{FILES}/{file['id']}", headers=headers).status_code == 404


def test_an_archive_that_cannot_be_unpacked_leaves_nothing(client: TestClient) -> None:
    for content in (b"no archive", zipped(**{"../x": b"1"})):
        answer = send(client, content, "a.zip")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_file")
    assert leftovers(client) == []


def announce(client: TestClient, content: bytes, name: str = "a.csv") -> str:
    body = {"filename": name, "purpose": "fine-tune", "bytes": len(content), "mime_type": "text/csv"}
    answer = client.post(UPLOADS, json=body)
    assert answer.status_code == 200, answer.text
    upload = answer.json()
    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    return str(upload["id"])


def part(client: TestClient, upload: str, content: bytes) -> str:
    answer = client.post(f"{UPLOADS}/{upload}/parts", files={"data": ("part", content)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest()
    return str(answer.json()["id"])


def test_parts_come_in_any_order_and_are_put_together_in_the_one_named(client: TestClient) -> None:
    content = b"0123456789"
    upload = announce(client, content)
    last, lost, first = part(client, upload, b"6789"), part(client, upload, b"01"), part(client, upload, b"012345")
    listed = client.get(f"{UPLOADS}/{upload}/parts").json()
    assert [entry["id"] for entry in listed["data"]] == [last, lost, first]
    body = {"part_ids": [first, last], "md5": hashlib.md5(content).hexdigest()}
    done = client.post(f"{UPLOADS}/{upload}/complete", json=body).json()
    assert (done["status"], done["file"]["bytes"]) == ("completed", 10)
    assert client.get(f"{FILES}/{done['file']['id']}/content").content == content
    assert client.get(f"{UPLOADS}/{upload}").json() == done
    again = client.post(f"{UPLOADS}/{upload}/complete", json=body)
    assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
    assert client.post(f"{UPLOADS}/{upload}/parts", files={"data": ("part", b"x")}).status_code == 409
    assert len(leftovers(client)) == 1


def test_a_wrong_sum_or_length_is_refused_and_can_be_mended(client: TestClient) -> None:
    upload = announce(client, b"0123456789")
    first, second = part(client, upload, b"01234"), part(client, upload, b"56789")
    complete = f"{UPLOADS}/{upload}/complete"
    for body, param in (
        ({"part_ids": [first]}, "part_ids"),
        ({"part_ids": [first, first]}, "part_ids"),
        ({"part_ids": [first, "part_none"]}, "part_ids"),
        ({"part_ids": [second, first], "md5": hashlib.md5(b"0123456789").hexdigest()}, "md5"),
    ):
        answer = client.post(complete, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert client.post(complete, json={"part_ids": [first, second]}).json()["status"] == "completed"


def test_a_cancelled_upload_leaves_nothing(client: TestClient) -> None:
    upload = announce(client, b"01")
    part(client, upload, b"0")
    assert client.post(f"{UPLOADS}/{upload}/cancel").json()["status"] == "cancelled"
    assert client.post(f"{UPLOADS}/{upload}/cancel").status_code == 409
    assert client.get(f"{UPLOADS}/{upload}").json()["status"] == "cancelled"
    assert leftovers(client) == []


def test_uploads_have_limits(start: Callable[..., TestClient]) -> None:
    client = start(max_file_bytes=100, max_upload_part_bytes=10)
    body = {"filename": "a", "purpose": "vision", "bytes": 101, "mime_type": "x/y"}
    assert client.post(UPLOADS, json=body).status_code == 413
    upload = announce(client, b"x" * 4)
    parts = f"{UPLOADS}/{upload}/parts"
    assert client.post(parts, files={"data": ("p", b"x" * 11)}).status_code == 413
    assert client.post(parts, files={"data": ("p", b"x" * 8)}).status_code == 200
    assert client.post(parts, files={"data": ("p", b"x")}).status_code == 400
    assert len(leftovers(client)) == 1


def test_an_upload_whose_time_is_up_takes_nothing(start: Callable[..., TestClient]) -> None:
    client = start(upload_lifetime_s=0.001)
    upload = announce(client, b"01")
    assert client.post(f"{UPLOADS}/{upload}/parts", files={"data": ("part", b"0")}).status_code == 409
    client.app.state.files.remove_expired()  # type: ignore[attr-defined]
    assert client.get(f"{UPLOADS}/{upload}").json()["status"] == "expired"
