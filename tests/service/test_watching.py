"""What a client follows while a job runs: its events with breaks between, its log, and the files that it leaves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest


class Watched:
    """A job that waits in its first attempt, over HTTP."""

    def __init__(self, service: Any) -> None:
        self.http = httpx.Client(base_url=f"{service.url}/v1", timeout=60)
        body = {"model": "ViT-B-32", "recipe": "flyp", "training_file": str(service.data), "metadata": {"end": "wait"}}
        job = self.http.post("/fine_tuning/jobs", json=body).json()
        self.folder = Path(job["job_dir"])
        self.base = f"/fine_tuning/jobs/{job['id']}"
        deadline = time.monotonic() + 60
        while self.http.get(self.base).json()["status"] != "running":
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def release(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def watched(start_service):
    return Watched(start_service(sse_heartbeat_s=0.1))


def test_a_broken_stream_goes_on_where_it_broke_and_stays_alive_meanwhile(watched):
    sse, seen, comments = {"accept": "text/event-stream"}, [], 0
    with watched.http.stream("GET", f"{watched.base}/events", headers=sse) as stream:
        for line in stream.iter_lines():
            seen += [line[4:]] if line.startswith("id: ") else []
            comments += line.startswith(":")
            if comments == 2 and seen:
                break
    watched.release()
    answer = watched.http.get(f"{watched.base}/events", headers={**sse, "last-event-id": seen[-1]})
    lines = answer.text.splitlines()
    rest = [line[4:] for line in lines if line.startswith("id: ")]
    assert "event: done" in lines
    listed = watched.http.get(f"{watched.base}/events", params={"limit": 1000}).json()["data"]
    assert seen + rest == [event["id"] for event in listed[::-1]]


def test_a_log_is_followed_to_the_end_of_the_job_and_is_the_same_afterwards(watched):
    with watched.http.stream("GET", f"{watched.base}/logs", params={"follow": "true"}) as stream:
        assert stream.headers["content-type"] == "text/plain; charset=utf-8"
        lines = []
        for line in stream.iter_lines():
            if not lines:
                watched.release()
            lines.append(line)
    assert lines == ["attempt 1 will wait", "step 1", "step 2", "step 3"]
    assert watched.http.get(f"{watched.base}/logs").text.splitlines() == lines
    assert watched.http.get(f"{watched.base}/logs", params={"attempt": 2}).status_code == 404


def test_a_broken_download_goes_on_where_it_broke(watched):
    path = watched.folder / "export" / "weights.bin"
    path.parent.mkdir()
    path.write_bytes(content := bytes(range(256)) * 4096)
    url = f"{watched.base}/artifacts/export/weights.bin"
    with watched.http.stream("GET", url) as stream:
        got, tag = next(stream.iter_bytes(1000)), stream.headers["etag"]
    rest = watched.http.get(url, headers={"range": f"bytes={len(got)}-", "if-range": tag})
    assert (rest.status_code, got + rest.content) == (206, content)
    assert rest.headers["content-range"] == f"bytes {len(got)}-{len(content) - 1}/{len(content)}"
    path.write_bytes(content + b"more")
    changed = watched.http.get(url, headers={"range": f"bytes={len(got)}-", "if-range": tag})
    assert (changed.status_code, len(changed.content)) == (200, len(content) + 4)
    beyond = watched.http.get(url, headers={"range": f"bytes={len(content) + 4}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content) + 4}")
