"""The client against a running service: every call, and what happens when the connection breaks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from service.client import AttuneClient
from service.client_errors import (
    BadKey,
    BadRequest,
    Conflict,
    ConnectionFailed,
    Forbidden,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthenticated,
    error_from_response,
)
from service.security import make_key
from service.store.records import Role

TINY = {"model": "ViT-B-32", "recipe": "flyp"}
WHOLE_MACHINE = {"parallel": {"devices": 2}}


def go_on(job):
    """Let a waiting worker go on."""
    (Path(job["job_dir"]) / "go").touch()


def wait_for(client, job, *statuses, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while (found := client.job(job["id"]))["status"] not in statuses:
        assert time.monotonic() < deadline, f"still {found['status']}"
        time.sleep(0.02)
    return found


def test_a_job_runs_to_its_end_and_leaves_a_model(client, service):
    job = client.create_job(**TINY, training_file=str(service.data), suffix="pets", metadata={"team": "a"}, seed=3)
    assert (job["object"], job["status"]) == ("fine_tuning.job", "validating_files")
    events = list(client.events(job["id"]))
    losses = [event["data"]["loss"] for event in events if event["type"] == "metrics"]
    assert losses == [1, 1 / 2, 1 / 3]
    done = client.job(job["id"])
    assert (done["status"], done["error"], done["seed"], done["metadata"]) == ("succeeded", None, 3, {"team": "a"})
    assert done["finished_at"] >= done["started_at"] >= done["created_at"]
    assert [(a["number"], a["end_reason"], a["last_step"]) for a in done["attempts"]] == [(1, "completed", 3)]
    model = client.model(done["fine_tuned_model"])
    assert model["id"].startswith("ft:ViT-B-32:pets:")
    assert (model["job"], model["task"], model["class_names"]) == (job["id"], "clip", ["cat", "dog"])
    assert model["metrics"] == {"validation/top1": 0.75}
    assert client.models() == [model]


def test_the_stream_tells_the_same_as_the_pages(client, service):
    job = client.create_job(**TINY, training_file=str(service.data))
    streamed = list(client.events(job["id"]))
    paged, after, has_more = [], None, True
    while has_more:
        page, has_more = client.list_events(job["id"], after=after, limit=3)
        paged += page
        after = page[-1]["id"]
    assert len(streamed) > 8
    assert streamed == paged[::-1]
    assert any(event["message"] == "naïve – ünïcode\nin two lines" for event in streamed)
    resumed = list(client.events(job["id"], after=streamed[4]["id"]))
    assert resumed == streamed[5:]


def test_checkpoints_are_paged_newest_first(client, service):
    job = client.create_job(**TINY, training_file=str(service.data))
    list(client.events(job["id"]))
    first, has_more = client.checkpoints(job["id"], limit=2)
    assert ([c["step_number"] for c in first], has_more) == ([3, 2], True)
    rest, has_more = client.checkpoints(job["id"], after=first[-1]["id"])
    assert ([c["step_number"] for c in rest], has_more) == ([1], False)
    assert first[0]["metrics"] == {"step": 3, "validation/top1": 0.75}


def test_jobs_are_listed_newest_first_and_by_metadata(client):
    spec = {"data": {"train": "/nowhere"}}
    jobs = [client.create_job(**TINY, spec=spec, metadata={"n": str(i % 2), "of": "5"}) for i in range(5)]
    ids = [job["id"] for job in jobs]
    page, has_more = client.jobs(limit=2)
    assert ([job["id"] for job in page], has_more) == ([ids[4], ids[3]], True)
    page, has_more = client.jobs(after=ids[3])
    assert ([job["id"] for job in page], has_more) == ([ids[2], ids[1], ids[0]], False)
    page, _ = client.jobs(metadata={"n": "1", "of": "5"})
    assert [job["id"] for job in page] == [ids[3], ids[1]]
    assert client.jobs(metadata={"n": "7"}) == ([], False)


def test_a_running_job_is_cancelled_and_reads_so_at_once(client, service):
    job = client.create_job(**TINY, training_file=str(service.data), metadata={"end": "wait"})
    wait_for(client, job, "running")
    assert client.cancel(job["id"])["status"] == "cancelled"
    assert [event["message"] for event in client.events(job["id"])][-1] == "Job cancelled"
    assert client.job(job["id"])["attempts"][0]["end_reason"] == "cancelled"
    with pytest.raises(Conflict, match="cancelled"):
        client.cancel(job["id"])


def test_a_running_job_is_paused_and_goes_on(client, service):
    job = client.create_job(**TINY, training_file=str(service.data), metadata={"end": "wait"})
    wait_for(client, job, "running")
    with pytest.raises(Conflict, match="running"):
        client.resume(job["id"])
    assert client.pause(job["id"])["status"] == "paused"
    with pytest.raises(Conflict, match="paused"):
        client.pause(job["id"])
    deadline = time.monotonic() + 30
    while client.job(job["id"])["attempts"][0]["status"] != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    resumed = client.resume(job["id"])
    assert resumed["status"] in ("queued", "running")
    assert resumed["attempts"][0]["end_reason"] == "paused"
    go_on(job)
    done = wait_for(client, job, "succeeded")
    assert [a["resume"] for a in done["attempts"]] == [False, True]
    with pytest.raises(Conflict, match="succeeded"):
        client.pause(job["id"])
    with pytest.raises(NotFound, match="ftjob-none"):
        client.pause("ftjob-none")


def test_a_queued_job_is_passed_over_while_it_is_paused(client, service):
    given = {**TINY, "training_file": str(service.data), "metadata": {"end": "wait"}, "spec": WHOLE_MACHINE}
    first = client.create_job(**given)
    wait_for(client, first, "running")
    second, third = (client.create_job(**given) for _ in range(2))
    wait_for(client, second, "queued")
    assert client.pause(second["id"])["status"] == "paused"
    wait_for(client, third, "queued")
    go_on(first)
    wait_for(client, third, "running")
    assert client.job(second["id"])["num_attempts"] == 0
    client.resume(second["id"])
    for job in (third, second):
        go_on(job)
        wait_for(client, job, "succeeded")


@pytest.mark.parametrize(
    ("spec", "param", "words"),
    [
        ({"parallel": {"devices": 3}, "batch": {"global_size": 6}}, "parallel.devices", "use at most 2"),
        ({"parallel": {"devices": 1, "nodes": 2}}, "parallel.nodes", "one machine"),
    ],
)
def test_what_this_machine_can_never_run_is_refused_at_once(client, service, spec, param, words):
    with pytest.raises(BadRequest, match=words) as caught:
        client.create_job(**TINY, training_file=str(service.data), spec=spec)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_spec", param)
    section, _, name = param.partition(".")
    assert [(p["field"], p["value"]) for p in caught.value.problems] == [(param, spec[section][name])]
    assert client.jobs() == ([], False)
    assert list(service.app.state.settings.jobs_dir.iterdir()) == []


def test_weights_are_looked_for_where_the_settings_say(start_service, tmp_path):
    service = start_service(weights_dir=tmp_path / "weights")
    given = {"model": "ViT-B-32/mine", "recipe": "flyp", "training_file": str(service.data)}
    with AttuneClient(service.url, timeout_s=20) as client:
        with pytest.raises(BadRequest, match="no published weights 'mine'"):
            client.create_job(**given)
        (tmp_path / "weights" / "ViT-B-32" / "mine").mkdir(parents=True)
        assert client.create_job(**given)["model"] == "ViT-B-32/mine"


def test_bad_data_fails_the_job_and_names_the_field(client):
    job = client.create_job(**TINY, training_file="/nowhere")
    list(client.events(job["id"]))
    failed = client.job(job["id"])
    assert (failed["status"], failed["error"]["param"]) == ("failed", "data.train.path")
    assert "/nowhere" in failed["error"]["message"]
    assert b"looked at" in "".join(client.logs(job["id"])).encode()


def test_a_failing_run_tells_why(client, service):
    job = client.create_job(**TINY, training_file=str(service.data), metadata={"end": "fail"})
    failed = wait_for(client, job, "failed")
    assert failed["error"] == {"code": "non_finite_loss", "message": "the run failed at step 1", "param": None}
    assert failed["fine_tuned_model"] is None


def test_logs_are_read_and_followed(client, service):
    job = client.create_job(**TINY, training_file=str(service.data), metadata={"end": "wait"})
    wait_for(client, job, "running")
    threading.Timer(0.3, go_on, [job]).start()
    followed = "".join(client.logs(job["id"], follow=True))
    assert "attempt 1 will wait\n" in followed
    assert followed.endswith("step 1\nstep 2\nstep 3\n")
    assert "".join(client.logs(job["id"], attempt=1)).endswith("step 3\n")
    with pytest.raises(NotFound, match="no attempt 2"):
        list(client.logs(job["id"], attempt=2))


def test_recipes_are_listed_and_shown(client):
    assert {recipe["id"] for recipe in client.recipes()} >= {"flyp", "contrastive"}
    shown = client.recipe("itra-coco-rn50-partial")
    assert shown["dataset"] == {
        "name": "MS-COCO Captions 2017",
        "num_train": 118_287,
        "num_classes": None,
        "devices": 8,
    }
    assert shown["spec"]["model"]["image"]["lock_patterns"] == ["!attnpool", "!layer4"]
    assert "76.02" in shown["published"]
    assert shown["notes"]
    assert client.recipe("flyp")["spec"]["objective"]["name"] == "class_prompts"
    with pytest.raises(NotFound, match="Did you mean flyp"):
        client.recipe("flip")


def test_a_model_is_taken_off_the_register(client, service):
    job = client.create_job(**TINY, training_file=str(service.data))
    list(client.events(job["id"]))
    name = client.job(job["id"])["fine_tuned_model"]
    assert client.delete_model(name) == {"id": name, "object": "model", "deleted": True}
    with pytest.raises(NotFound, match="registered") as caught:
        client.model(name)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert client.models() == []


def test_a_registered_model_is_where_a_next_job_starts(client, service):
    job = client.create_job(**TINY, training_file=str(service.data), suffix="pets")
    list(client.events(job["id"]))
    first = client.job(job["id"])
    name = first["fine_tuned_model"]
    second = client.create_job(model=name, recipe="flyp", training_file=str(service.data))
    assert second["model"] == name
    assert second["spec"]["model"]["name"] == f"local-dir:{first['job_dir']}/export"
    with pytest.raises(BadRequest, match=f"Did you mean {name}") as caught:
        client.create_job(model=name[:-1], recipe="flyp", training_file=str(service.data))
    assert caught.value.param == "model.name"


def test_all_problems_of_a_spec_come_at_once(client):
    with pytest.raises(BadRequest) as caught:
        client.create_job(model="ViT-B-32", spec={"optim": {"lr": -1, "lrr": 2}, "data": {"train": "/d"}})
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_spec", "optim.lr")
    assert [problem["field"] for problem in error.problems] == ["optim.lr", "optim.lrr"]
    assert "Did you mean lr" in error.message
    assert error.request_id.startswith("req_")
    assert client.jobs() == ([], False)


def test_health_tells_each_part(client, service):
    assert client.health()["status"] == "ready"
    service.app.state.runner.stop()
    health = client.health()
    assert health["status"] == "not_ready"
    assert [name for name, part in health["parts"].items() if not part["ok"]] == ["jobs"]


def test_an_unknown_job_is_named(client):
    with pytest.raises(NotFound, match="ftjob-none"):
        client.job("ftjob-none")
    with pytest.raises(NotFound, match="ftjob-none"):
        next(client.events("ftjob-none"))
    with pytest.raises(NotFound, match="ftevent-none") as caught:
        client.list_events(client.create_job(**TINY, training_file="/d")["id"], after="ftevent-none")
    assert caught.value.param == "after"


def test_nobody_there():
    with AttuneClient("http://127.0.0.1:9", timeout_s=2) as client:
        with pytest.raises(ConnectionFailed, match="is the service running"):
            client.models()
        with pytest.raises(ConnectionFailed):
            next(client.events("ftjob-1", reconnect_for_s=0.2))
        with pytest.raises(ConnectionFailed):
            next(client.logs("ftjob-1"))


def test_the_making_of_a_job_is_one_line_of_the_audit_log(client, service):
    job = client.create_job(**TINY, training_file=str(service.data))
    with pytest.raises(BadRequest):
        client.create_job(recipe="flyp", model="ViT-B-32", spec={"optim": {"lr": -1}})
    lines = client.call("GET", "/v1/audit", params={"action": "job.create"})["data"]
    told = [(line["outcome"], line["target"], line["detail"]["status"]) for line in lines]
    assert told == [("refused", None, 400), ("ok", job["id"], 200)]
    assert all(line["request_id"] for line in lines)


def test_a_broken_stream_goes_on_where_it_broke_off(client, service, relay):
    job = client.create_job(**TINY, training_file=str(service.data), metadata={"end": "wait"})
    with AttuneClient(relay.url, timeout_s=10) as relayed:
        seen = []
        for event in relayed.events(job["id"]):
            seen.append(event)
            if "Training for" in event["message"] or event["type"] == "metrics":
                relay.break_connections()
                go_on(job)
    assert relay.num_connections > 1
    events, _ = client.list_events(job["id"], limit=100)
    assert seen == events[::-1]


def test_a_stream_outlives_a_restart_of_the_service(start_service):
    first = start_service()
    port = int(first.url.rpartition(":")[2])
    with AttuneClient(first.url, timeout_s=10) as client:
        job = client.create_job(**TINY, training_file=str(first.data), metadata={"end": "wait"})
        seen = []
        for event in client.events(job["id"]):
            seen.append(event)
            if "Training for" in event["message"]:
                began = time.monotonic()
                first.stop()
                stopped_in_s = time.monotonic() - began
                start_service(port=port)
                go_on(job)
        assert client.job(job["id"])["status"] == "succeeded"
        assert client.job(job["id"])["num_attempts"] == 1
        assert stopped_in_s < 5, "the service waited for the stream"
        events, _ = client.list_events(job["id"], limit=100)
        assert seen == events[::-1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequest), (413, BadRequest), (422, BadRequest), (404, NotFound), (409, Conflict), (500, ServerError)],
)
def test_each_status_has_its_class(status, kind):
    error = error_from_response(status, b'{"error": {"message": "m", "code": "c", "param": "p"}}', {})
    assert type(error) is kind
    assert (str(error), error.code, error.param, error.status) == ("m", "c", "p", status)


def test_overload_carries_the_time_to_wait():
    error = error_from_response(429, b'{"error": {"message": "later"}}', {"retry-after": "7"})
    assert isinstance(error, TooManyRequests)
    assert error.retry_after_s == 7


def test_an_answer_that_is_not_attunes_is_quoted():
    error = error_from_response(502, b"<html>bad gateway</html>", {})
    assert isinstance(error, ServerError)
    assert "bad gateway" in str(error)


def test_the_key_of_the_environment_is_sent_and_a_broken_one_is_not(service, monkeypatch):
    key, record = make_key(project="default", name="mine", role=Role.ADMIN)
    service.app.state.store.keys.create(record)
    monkeypatch.delenv("ATTUNE_API_KEY", raising=False)
    with AttuneClient(service.url) as client, pytest.raises(Unauthenticated, match="no API key"):
        client.models()
    monkeypatch.setenv("ATTUNE_API_KEY", f" {key}\n")
    with AttuneClient(service.url) as client:
        assert client.models() == []
    with AttuneClient(service.url, project="nobodys") as client, pytest.raises(Forbidden, match="nobodys"):
        client.models()
    with pytest.raises(BadKey, match="ATTUNE_API_KEY"):
        AttuneClient(service.url, api_key="ak-ä")
