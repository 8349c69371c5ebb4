"""Commands that talk to the service, against a real one; nothing here trains."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.client import AttuneClient

Attune = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def failing_job(attune: Attune, service_url: str) -> str:
    """A job whose data is not there: it is made, and fails at the data check."""
    data = ("--set", "data.train=nowhere", "--set", "model.name=attune-tiny-32")
    ended = attune("jobs", "create", "--recipe", "flyp", *data, "--metadata", "a=b", "--json", "--url", service_url)
    assert ended.returncode == 0, ended.stderr
    return str(json.loads(ended.stdout)["id"])


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "list"),
        ("jobs", "watch", "ftjob-x"),
        ("models", "list"),
        ("jobs", "create", "--recipe", "flyp", "--set", "data.train=x"),
    ],
)
def test_no_service_exits_3(attune: Attune, command: tuple[str, ...]) -> None:
    ended = attune(*command, "--url", "http://127.0.0.1:9")

    assert ended.returncode == 3
    assert "http://127.0.0.1:9" in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "show", "ftjob-none"),
        ("jobs", "watch", "ftjob-none"),
        ("jobs", "logs", "ftjob-none"),
        ("jobs", "events", "ftjob-none"),
        ("jobs", "cancel", "ftjob-none"),
        ("jobs", "pause", "ftjob-none"),
        ("jobs", "resume", "ftjob-none"),
        ("files", "show", "file-none"),
        ("files", "delete", "file-none"),
        ("models", "show", "ft:none"),
        ("models", "delete", "ft:none"),
    ],
)
def test_what_does_not_exist_exits_4(attune: Attune, service_url: str, command: tuple[str, ...]) -> None:
    ended = attune(*command, "--url", service_url)

    assert ended.returncode == 4
    assert command[2] in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2


def test_url_comes_from_the_environment_too(attune: Attune, service_url: str) -> None:
    assert attune("jobs", "list", ATTUNE_URL=service_url).returncode == 0


def test_bad_spec_exits_2_with_every_problem(attune: Attune, service_url: str) -> None:
    wrong = ("--set", "optim.lr=-1", "--set", "optim.beta=1", "--set", "data.train=x")
    ended = attune("jobs", "create", "--recipe", "flyp", *wrong, "--url", service_url)

    assert ended.returncode == 2
    assert "optim.lr: Input should be greater than 0, got -1" in ended.stderr
    assert "Did you mean betas?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_unreadable_spec_file_exits_2(attune: Attune, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("a: [")
    ended = attune("jobs", "create", "--spec", "job.yaml")

    assert ended.returncode == 2
    assert "job.yaml is not valid YAML" in ended.stderr


def test_a_suffix_that_the_service_refuses_exits_2(attune: Attune, service_url: str) -> None:
    given = ("--recipe", "flyp", "--set", "data.train=x", "--suffix", "no spaces here")
    ended = attune("jobs", "create", *given, "--url", service_url)

    assert ended.returncode == 2
    assert "suffix" in ended.stderr


def test_metadata_without_a_value_is_a_usage_error(attune: Attune, service_url: str) -> None:
    ended = attune("jobs", "list", "--metadata", "novalue", "--url", service_url)

    assert ended.returncode == 2
    assert "KEY=VALUE" in ended.stderr


def test_relative_data_is_taken_from_the_callers_folder(
    attune: Attune, service_url: str, failing_job: str, tmp_path: Path
) -> None:
    shown = json.loads(attune("jobs", "show", failing_job, "--json", "--url", service_url).stdout)

    assert shown["training_file"] == str(tmp_path / "nowhere")
    assert shown["recipe"] == "flyp"
    assert shown["metadata"] == {"a": "b"}
    assert shown["checkpoints"] == []


def test_jobs_are_listed_by_note(attune: Attune, service_url: str, failing_job: str) -> None:
    with_note = json.loads(attune("jobs", "list", "--metadata", "a=b", "--json", "--url", service_url).stdout)
    without = json.loads(attune("jobs", "list", "--metadata", "a=c", "--json", "--url", service_url).stdout)
    table = attune("jobs", "list", "--url", service_url).stdout

    assert failing_job in [job["id"] for job in with_note]
    assert without == []
    assert failing_job in table


def test_watch_ends_with_the_job_and_says_why_it_failed(attune: Attune, service_url: str, failing_job: str) -> None:
    watched = attune("jobs", "watch", failing_job, "--url", service_url, timeout_s=120)

    assert watched.returncode == 1
    assert "failed" in watched.stdout
    assert "nowhere" in watched.stdout

    as_json = attune("jobs", "watch", failing_job, "--json", "--url", service_url)
    messages = [json.loads(line)["message"] for line in as_json.stdout.splitlines()]
    assert as_json.returncode == 1
    assert any("nowhere" in message for message in messages)

    events = json.loads(attune("jobs", "events", failing_job, "--json", "--url", service_url).stdout)
    assert {event["message"] for event in events} == set(messages)


def test_a_job_that_has_ended_cannot_be_cancelled(attune: Attune, service_url: str, failing_job: str) -> None:
    attune("jobs", "watch", failing_job, "--url", service_url, timeout_s=120)
    ended = attune("jobs", "cancel", failing_job, "--url", service_url)

    assert ended.returncode == 1
    assert failing_job in ended.stderr


def wait_for_status(client: AttuneClient, job_id: str, status: str) -> None:
    deadline = time.monotonic() + 30
    while client.job(job_id)["status"] != status:
        assert time.monotonic() < deadline, client.job(job_id)
        time.sleep(0.05)


def test_a_job_is_paused_and_resumed(attune: Attune, service: Any, client: AttuneClient) -> None:
    given = {"model": "ViT-B-32", "recipe": "flyp", "training_file": str(service.data)}
    held = {"metadata": {"end": "wait"}, "spec": {"parallel": {"devices": 2}}}
    wait_for_status(client, client.create_job(**given, **held)["id"], "running")
    second = client.create_job(**given, **held)["id"]
    wait_for_status(client, second, "queued")

    paused = attune("jobs", "pause", second, "--url", service.url)
    again = attune("jobs", "pause", second, "--url", service.url)
    resumed = attune("jobs", "resume", second, "--json", "--url", service.url)

    assert (paused.returncode, paused.stdout.strip()) == (0, f"{second} is paused")
    assert again.returncode == 1
    assert "paused" in again.stderr
    assert json.loads(resumed.stdout)["status"] == "queued"


@pytest.mark.slow
def test_cancelled_job_reads_cancelled(attune: Attune, service_url: str, two_class_folder: Path) -> None:
    settings = ("model.name=attune-tiny-32", f"data.train={two_class_folder}", "batch.global_size=4")
    settings += ("schedule.warmup_steps=0", "schedule.epochs=1000")
    given = ("--recipe", "flyp", *(word for setting in settings for word in ("--set", setting)))
    made = json.loads(attune("jobs", "create", *given, "--json", "--url", service_url).stdout)
    answer = attune("jobs", "cancel", made["id"], "--json", "--url", service_url)
    watched = attune("jobs", "watch", made["id"], "--url", service_url, timeout_s=120)

    assert json.loads(answer.stdout)["status"] == "cancelled"
    assert watched.returncode == 1
    assert f"{made['id']}: cancelled" in watched.stdout


def test_logs_of_the_data_check(attune: Attune, service_url: str, failing_job: str) -> None:
    attune("jobs", "watch", failing_job, "--url", service_url, timeout_s=120)

    assert attune("jobs", "logs", failing_job, "--url", service_url).returncode == 0
    lines = attune("jobs", "logs", failing_job, "--json", "--url", service_url).stdout.splitlines()
    assert all("text" in json.loads(line) for line in lines)


def test_models_list_is_json(attune: Attune, service_url: str) -> None:
    assert json.loads(attune("models", "list", "--json", "--url", service_url).stdout) == []


def test_predict_without_a_file_is_a_usage_error(attune: Attune) -> None:
    ended = attune("predict", "none.jpg", "--model", "ft:x")

    assert ended.returncode == 2
    assert "none.jpg" in ended.stderr


def test_templates_without_classes_are_refused(attune: Attune, two_class_folder: Path) -> None:
    image = two_class_folder / "dark" / "0.jpg"
    ended = attune("predict", image, "--model", "ft:x", "--template", "a {}")

    assert ended.returncode == 2
    assert "--class-names" in ended.stderr


def test_predict_with_an_unknown_model_exits_4(attune: Attune, service_url: str, two_class_folder: Path) -> None:
    image = two_class_folder / "dark" / "0.jpg"
    ended = attune("predict", image, "--model", "ft:x", "--class-names", "dark,bright", "--url", service_url)

    assert ended.returncode == 4
    assert "ft:x" in ended.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_from_a_folder_of_images_to_answers(
    attune: Attune, service_url: str, two_class_folder: Path, tmp_path: Path
) -> None:
    """A job through the service, then the model that it made, by the command line alone."""
    spec = ("--recipe", "flyp", "--set", "model.name=attune-tiny-32", "--set", f"data.train={two_class_folder}")
    size = ("--set", "batch.global_size=8", "--set", "schedule={max_steps: 3, warmup_steps: 0}")
    here = ("--set", "parallel={devices: 1, precision: fp32}", "--url", service_url)
    made = attune("jobs", "create", *spec, *size, *here, "--suffix", "two", "--watch", "--json", timeout_s=300)

    assert made.returncode == 0, made.stdout + made.stderr
    events = [json.loads(line) for line in made.stdout.splitlines()]
    assert [e["data"]["step"] for e in events if e["type"] == "metrics"] == [1, 2, 3]

    (model,) = json.loads(attune("models", "list", "--json", "--url", service_url).stdout)
    shown = json.loads(attune("jobs", "show", model["job"], "--json", "--url", service_url).stdout)
    assert shown["fine_tuned_model"] == model["id"]
    assert [c["step_number"] for c in shown["checkpoints"]][:1] == [3]
    assert "attempt" in attune("jobs", "show", model["job"], "--url", service_url).stdout
    assert "step" in attune("jobs", "logs", model["job"], "--url", service_url).stdout

    images = [two_class_folder / "dark" / f"{n}.jpg" for n in range(8)] * 3  # more than one request takes
    asked = ("--model", model["id"], "--json", "--url", service_url)
    own = json.loads(attune("predict", *images, *asked, timeout_s=180).stdout)
    other = json.loads(attune("predict", images[0], "--class-names", "cat,dog", *asked).stdout)

    assert [answer["image"] for answer in own] == [str(image) for image in images]
    assert {p["label"] for p in own[0]["predictions"]} == {"dark", "bright"}
    assert own[0]["predictions"] == own[8]["predictions"]
    assert {p["label"] for p in other[0]["predictions"]} == {"cat", "dog"}
    assert sum(p["probability"] for p in other[0]["predictions"]) == pytest.approx(1)

    again = ("jobs", "create", "--recipe", "flyp", "--set", f"model.name={model['id']}", "--set", "data.train=nowhere")
    onwards = json.loads(attune(*again, "--json", "--url", service_url).stdout)
    assert onwards["model"] == model["id"]
    assert onwards["spec"]["model"]["name"] == f"local-dir:{model['path']}"

    assert attune("models", "delete", model["id"], "--url", service_url).returncode == 0
    assert json.loads(attune("models", "list", "--json", "--url", service_url).stdout) == []
    assert Path(model["path"]).exists()


def test_files_are_sent_listed_and_removed(attune: Attune, service_url: str, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\n", encoding="utf-8")
    sent = attune("files", "upload", "captions.csv", "--expires-in-days", 1, "--url", service_url)
    assert sent.returncode == 0, sent.stderr
    id = sent.stdout.strip()
    listed = attune("files", "list", "--url", service_url).stdout
    assert id in listed
    assert "captions.csv" in listed
    assert "14 bytes" in attune("files", "show", id, "--url", service_url).stdout
    assert attune("files", "delete", id, "--url", service_url).stdout.strip() == f"{id} is removed"
    assert json.loads(attune("files", "list", "--json", "--url", service_url).stdout) == []


def test_a_folder_and_an_unknown_upload_are_refused(attune: Attune, service_url: str, tmp_path: Path) -> None:
    folder = attune("files", "upload", tmp_path, "--url", service_url)
    assert (folder.returncode, "archive" in folder.stderr) == (2, True)
    (tmp_path / "a.csv").write_text("a", encoding="utf-8")
    unknown = attune("files", "upload", "a.csv", "--resume", "upload_none", "--url", service_url)
    assert unknown.returncode == 4
