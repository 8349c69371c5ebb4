"""Webhooks over the real application, to a real receiver."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from service.cli.main import run

ROOT = "/v1/webhooks"


@pytest.fixture
def received():
    """A receiver's URL and what it has received: headers and body."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", requests
    server.shutdown()
    server.server_close()


@pytest.fixture
def service(start_service):
    return start_service(webhook_allowed_networks="127.0.0.0/8", webhook_first_retry_s=0.1)


@pytest.fixture
def http(service):
    with httpx.Client(base_url=service.url, timeout=30) as http:
        yield http


def wait(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_life_of_a_job_is_told_and_openais_client_verifies_it(service, http, client, received):
    url, requests = received
    hook = http.post(ROOT, json={"url": url}).json()
    job = client.create_job(model="ViT-B-32", recipe="flyp", training_file=str(service.data))
    told = lambda: [json.loads(body)["type"].removeprefix("fine_tuning.job.") for _, body in requests]  # noqa: E731
    wait(lambda: "succeeded" in told() and told().count("checkpoint") == 3)
    assert set(told()) == {"queued", "running", "checkpoint", "succeeded"}
    headers, body = next(pair for pair in requests if "succeeded" in pair[1])
    verifier = openai.OpenAI(api_key="none", webhook_secret=hook["secret"])
    event = verifier.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", job["id"])


def test_a_secret_is_shown_once_and_rotated_with_both_signing(http, received):
    url, requests = received
    hook = http.post(ROOT, json={"url": url, "event_types": ["fine_tuning.job.failed"]}).json()
    assert "secret" not in http.get(f"{ROOT}/{hook['id']}").json()
    new = http.post(f"{ROOT}/{hook['id']}/rotate_secret", json={}).json()
    assert new["secret"] != hook["secret"]
    assert new["num_secrets"] == 2
    delivery = http.post(f"{ROOT}/{hook['id']}/ping").json()
    wait(lambda: requests)
    for secret in (hook["secret"], new["secret"]):
        openai.OpenAI(api_key="none", webhook_secret=secret).webhooks.verify_signature(requests[0][1], requests[0][0])
    wait(lambda: http.get(f"{ROOT}/{hook['id']}/deliveries").json()["data"][0]["status"] == "delivered")
    again = http.post(f"{ROOT}/{hook['id']}/deliveries/{delivery['id']}/redeliver").json()
    assert again["status"] == "waiting"
    wait(lambda: len(requests) == 2)
    wait(lambda: http.get(f"{ROOT}/{hook['id']}/deliveries").json()["data"][0]["status"] == "delivered")
    assert http.post(f"{ROOT}/{hook['id']}/replay", json={"since": 0}).json()["num_messages"] == 0
    assert http.post(f"{ROOT}/{hook['id']}/replay", json={"since": 0, "status": "all"}).json()["num_messages"] == 1
    wait(lambda: len(requests) == 3)
    assert len({headers["webhook-id"] for headers, _ in requests}) == 1


def test_a_webhook_is_changed_disabled_and_deleted(http, received):
    hook = http.post(ROOT, json={"url": received[0]}).json()
    changed = http.patch(
        f"{ROOT}/{hook['id']}", json={"event_types": ["fine_tuning.sweep.failed"], "enabled": False}
    ).json()
    assert (changed["event_types"], changed["enabled"]) == (["fine_tuning.sweep.failed"], False)
    assert changed["disabled_reason"] == "by request"
    assert http.post(f"{ROOT}/{hook['id']}/ping").status_code == 409
    assert http.patch(f"{ROOT}/{hook['id']}", json={"enabled": True}).json()["enabled"] is True
    assert [item["id"] for item in http.get(ROOT).json()["data"]] == [hook["id"]]
    assert http.delete(f"{ROOT}/{hook['id']}").json() == {
        "id": hook["id"],
        "object": "webhook.deleted",
        "deleted": True,
    }
    assert http.get(f"{ROOT}/{hook['id']}").status_code == 404


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "https://[::1]/", "ftp://example.org/", "https://user@example.org/"]
)
def test_where_nothing_may_be_sent_is_refused(http, url):
    answer = http.post(ROOT, json={"url": url})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "url"


def test_an_event_that_there_is_none_of_is_refused(http):
    answer = http.post(ROOT, json={"url": "https://example.org/", "event_types": ["fine_tuning.job.done"]})
    assert answer.status_code == 422
    assert "event_types" in answer.json()["error"]["param"]


def test_the_command_line_looks_after_webhooks(service, client, received, capsys):
    url, requests = received

    def attune(*arguments, fails=0):
        assert run(["webhooks", *arguments, "--url", service.url]) == fails
        written = capsys.readouterr()
        return written.err if fails else written.out

    made = attune("create", url, "--event", "fine_tuning.job.failed")
    id, secret = re.search(r"wh_\w+", made)[0], re.search(r"whsec_\S+", made)[0]
    row = attune("list")
    assert id in row
    assert "enabled" in row
    assert secret not in row
    assert secret not in attune("rotate", id, "--overlap", "60")
    message = json.loads(attune("ping", id, "--json"))["id"]
    wait(lambda: json.loads(attune("deliveries", id, "--json"))[0]["status"] == "delivered")
    assert message in attune("deliveries", id)
    openai.OpenAI(api_key="none", webhook_secret=secret).webhooks.verify_signature(requests[0][1], requests[0][0])
    attune("resend", id, message)
    wait(lambda: len(requests) == 2)
    wait(lambda: json.loads(attune("deliveries", id, "--status", "delivered", "--json")))
    assert json.loads(attune("resend", id, "--json"))["num_messages"] == 0  # none has failed
    client.webhooks.change(id, enabled=False)
    assert json.loads(attune("list", "--json"))[0]["disabled_reason"] == "by request"
    assert "disabled" in attune("ping", id, fails=1)
    assert json.loads(attune("enable", id, "--json"))["enabled"] is True
    attune("delete", id)
    assert json.loads(attune("list", "--json")) == []
    assert "fine_tuning.job.failed" in attune("create", url, "--event", "job.done", fails=2)
    attune("ping", id, fails=4)
