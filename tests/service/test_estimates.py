"""Estimates and dry runs over HTTP: memory by ZeRO stage, devices, time, and what `auto` comes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

ESTIMATE = "/v1/fine_tuning/estimate"
BODY = {
    "model": "attune-small-64",
    "spec": {
        "objective": {"name": "classification", "head": "fresh"},
        "batch": {"global_size": 64},
        "schedule": {"epochs": 2},
    },
    "num_train": 640,
    "num_classes": 10,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One service for the module: it remembers its plans, each of which starts a process that imports torch."""
    folder = tmp_path_factory.mktemp("attune")
    app = create_app(Settings(data_dir=folder, poll_interval_s=60.0, cpu_slots=4))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def estimate(client: TestClient, **given: object) -> dict:
    answer = client.post(ESTIMATE, json={**BODY, **given})
    assert answer.status_code == 200, answer.text
    found: dict = answer.json()
    return found


@pytest.mark.slow
def test_an_estimate_tells_memory_time_devices_and_choices(client: TestClient) -> None:
    found = estimate(client)
    parameters = found["parameters"]["total"]
    none, third = found["memory"]["0"], found["memory"]["3"]
    assert (none["weights"], none["gradients"], none["optimizer"]) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert none["total"] == 12 * parameters + none["inputs"] + max(none["activations"], none["gradients"])
    assert third["buffers"] >= 8 * parameters
    assert (found["devices"], found["device"], found["zero_stage"], found["fits"]) == (1, "CPU process", 1, True)
    assert (found["smallest"]["devices"], found["smallest"]["micro_size"], found["advice"]) == (1, 64, [])
    time = found["time"]
    assert (time["total_steps"], time["total_s"]) == (20, pytest.approx(20 * time["step_s"]))
    assert time["images_per_s"] == pytest.approx(64 / time["step_s"])
    assert "FLOPs an image" in time["basis"]
    choices = {choice["field"]: (choice["value"], choice["why"]) for choice in found["auto"]}
    assert choices["parallel.devices"] == (1, "there is no GPU: one process")
    assert choices["batch.micro_size"][0] == 64
    assert choices["export.weights"] == ("raw", "there is no moving average (optim.ema_decay)")
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


@pytest.mark.slow
def test_a_job_that_does_not_fit_comes_with_a_way_that_does(client: TestClient) -> None:
    whole = estimate(client)["memory"]["0"]["total"]
    tight = estimate(client, device_memory_bytes=round(whole * 0.9))
    assert (tight["fits"], tight["memory"]["0"]["fits"], tight["device_memory_bytes"]) == (
        False,
        False,
        int(whole * 0.9),
    )
    smallest = tight["smallest"]
    assert smallest["devices"] >= 1
    assert smallest["micro_size"] * smallest["accumulation"] * smallest["devices"] == 64
    assert smallest["total"] <= 0.9 * 0.9 * whole + 1
    assert tight["advice"]
    hopeless = estimate(client, device_memory_bytes=1000)
    assert (hopeless["fits"], hopeless["smallest"]) == (False, None)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_dry_run_is_an_estimate_that_submits_nothing(client: TestClient, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(8):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"not even an image")
    body = {"model": "attune-tiny-32", "training_file": str(tmp_path), "spec": {"batch": {"global_size": 8}}}
    body["spec"] |= {"objective": {"name": "class_prompts"}}
    answer = client.post("/v1/fine_tuning/jobs", params={"dry_run": "true"}, json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["object"], found["plan"]["data"]["num_train"]) == ("fine_tuning.estimate", 16)
    assert found["spec"]["data"]["train"]["path"] == str(tmp_path)
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_what_cannot_run_is_refused_before_any_plan(client: TestClient) -> None:
    bad = client.post(ESTIMATE, json={**BODY, "spec": {"optim": {"lrr": 1}}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "optim.lrr")
    incomplete = client.post("/v1/fine_tuning/jobs", params={"dry_run": "true"}, json={"model": "attune-tiny-32"})
    assert (incomplete.status_code, incomplete.json()["error"]["code"]) == (400, "invalid_spec")
    assert client.post(ESTIMATE, json={**BODY, "num_train": 0}).status_code == 422


@pytest.mark.slow
def test_what_only_a_plan_can_see_is_refused_with_its_sentence(client: TestClient) -> None:
    spec = {**BODY["spec"], "batch": {"global_size": 1000}}
    answer = client.post(ESTIMATE, json={**BODY, "spec": spec})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unusable_job")
    assert "batch.global_size 1000" in answer.json()["error"]["message"]
