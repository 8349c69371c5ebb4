"""Sweeps over the real application, whose jobs run a short script that does as well as its learning rate is good."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.cli.main import run
from service.launchers.base import Capacity, Run

WORKER = Path(__file__).parent / "processes" / "sweep_worker.py"
RATES = [1e-2, 1e-3, 1e-4, 1e-5]


def sweep_worker(run: Run, capacity: Capacity, port: int) -> list[str]:
    return [sys.executable, str(WORKER), str(run.job_dir), str(run.attempt)]


class Sweeps:
    """What a client does with sweeps."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.http = httpx.Client(base_url=service.url, timeout=60)
        data = str(service.data)
        self.job = {"model": "ViT-B-32", "recipe": "flyp", "training_file": data, "validation_file": data}

    def post(self, *, job: dict | None = None, **fields: object) -> httpx.Response:
        return self.http.post("/v1/fine_tuning/sweeps", json={"job": {**self.job, **(job or {})}, **fields})

    def create(self, **fields: object) -> str:
        answer = self.post(**fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def get(self, id: str) -> dict:
        return self.http.get(f"/v1/fine_tuning/sweeps/{id}").json()

    def rows(self, id: str) -> list[dict]:
        return self.http.get(f"/v1/fine_tuning/sweeps/{id}/results").json()["data"]

    def wait(self, condition: Callable[[], Any], *, limit_s: float = 120) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < deadline, "nothing came of it"
            time.sleep(0.05)
        return found

    def wait_for(self, id: str, status: str) -> dict:
        return self.wait(lambda: (sweep := self.get(id))["status"] == status and sweep)

    def job_dir(self, row: dict) -> Path:
        return Path(self.http.get(f"/v1/fine_tuning/jobs/{row['job_id']}").json()["job_dir"])


@pytest.fixture
def sweeps(start_service):
    return Sweeps(start_service(worker=sweep_worker))


@pytest.mark.slow
def test_a_grid_runs_every_combination_and_names_the_best(sweeps):
    id = sweeps.create(parameters={"optim.lr": {"values": RATES}}, method="grid", max_parallel=2, name="rates")
    sweep = sweeps.wait_for(id, "succeeded")
    assert (sweep["name"], sweep["goal"], sweep["trial_counts"]["succeeded"]) == ("rates", "maximize", 4)
    assert sweep["best"]["parameters"] == {"optim.lr": 1e-4}
    assert sweep["best"]["value"] == pytest.approx(1.0)
    rows = sweeps.rows(id)
    assert [row["parameters"]["optim.lr"] for row in rows] == RATES
    assert rows[2]["rank"] == 1
    assert rows[2]["fine_tuned_model"].startswith("ft:ViT-B-32")
    job = sweeps.http.get(f"/v1/fine_tuning/jobs/{rows[2]['job_id']}").json()
    assert job["metadata"] == {"sweep": id, "trial": "2"}
    listed = sweeps.http.get("/v1/fine_tuning/sweeps").json()
    assert [item["id"] for item in listed["data"]] == [id]

    text = sweeps.http.get(f"/v1/fine_tuning/sweeps/{id}/results", headers={"Accept": "text/csv"}).text
    table = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["optim.lr"]) for row in table] == RATES
    assert float(table[2]["validation/top1"]) == pytest.approx(1.0)
    assert sweeps.http.get(f"/v1/fine_tuning/sweeps/{id}/results?format=csv").text == text
    refused = sweeps.http.post(f"/v1/fine_tuning/sweeps/{id}/cancel")
    assert refused.status_code == 409


@pytest.mark.slow
def test_trials_that_fall_behind_are_stopped_and_told_why(sweeps):
    trials = [{"optim.lr": 1e-4}, {"optim.lr": 2e-4}, {"optim.lr": 1e-1, "metadata.pace": "slow"}]
    id = sweeps.create(trials=trials, median_stopping={"warmup_evaluations": 1, "min_trials": 2})
    sweep = sweeps.wait_for(id, "succeeded")
    assert sweep["trial_counts"] == {
        "total": 3, "waiting": 0, "running": 0, "succeeded": 2, "failed": 0, "stopped": 1
    }  # fmt: skip
    row = sweeps.rows(id)[2]
    assert row["status"] == "stopped"
    assert row["step"] == 4
    assert "median of 2 other trials" in row["note"]
    events = sweeps.http.get(f"/v1/fine_tuning/jobs/{row['job_id']}/events?limit=100").json()["data"]
    assert any("median of 2 other trials" in event["message"] for event in events)
    sweeps.wait(
        lambda: sweeps.http.get(f"/v1/fine_tuning/jobs/{row['job_id']}").json()["attempts"][-1]["status"] == "ended"
    )


@pytest.mark.slow
def test_a_sweep_survives_its_service_and_makes_no_trial_twice(start_service):
    first = start_service(worker=sweep_worker)
    sweeps = Sweeps(first)
    job = {"spec": {"metadata": {"pace": "slow"}}}
    id = sweeps.create(job=job, parameters={"optim.lr": {"values": RATES}}, method="grid", max_parallel=2)
    sweeps.wait(lambda: len(sweeps.rows(id)) == 2)
    first.stop()
    sweeps = Sweeps(start_service(worker=sweep_worker))

    def let_go() -> bool:
        rows = sweeps.rows(id)
        for row in rows:
            if row["job_id"]:
                folder = sweeps.job_dir(row)
                if folder.exists():  # made with the job's data check; asked again until all have ended
                    (folder / "go").touch()
        return sweeps.get(id)["status"] == "succeeded"

    sweeps.wait(let_go)
    assert [row["parameters"]["optim.lr"] for row in sweeps.rows(id)] == RATES
    assert len(sweeps.http.get("/v1/fine_tuning/jobs?limit=100").json()["data"]) == 4


@pytest.mark.slow
def test_cancelling_a_sweep_cancels_its_jobs(sweeps):
    job = {"spec": {"metadata": {"pace": "slow"}}}
    space = {"optim.lr": {"min": 1e-6, "max": 1e-2, "log": True}}
    id = sweeps.create(job=job, parameters=space, max_trials=9, max_parallel=2)
    sweeps.wait(lambda: [row["status"] for row in sweeps.rows(id)] == ["running", "running"])
    assert sweeps.http.post(f"/v1/fine_tuning/sweeps/{id}/cancel").json()["status"] == "cancelled"
    sweeps.wait(lambda: [row["status"] for row in sweeps.rows(id)] == ["stopped", "stopped"])
    jobs = sweeps.http.get("/v1/fine_tuning/jobs").json()["data"]
    assert [job["status"] for job in jobs] == ["cancelled", "cancelled"]


@pytest.mark.slow
def test_a_sweep_whose_trials_all_fail_ends_and_says_why(sweeps):
    space = {"optim.lr": {"values": RATES}}
    id = sweeps.create(job={"training_file": "/nowhere"}, parameters=space, method="grid", max_parallel=1)
    sweep = sweeps.wait_for(id, "failed")
    assert "the first 3 trials ended without a value" in sweep["error"]["message"]
    assert "/nowhere" in sweep["error"]["message"]
    assert len(sweeps.rows(id)) == 3


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"parameters": {"optim.lrr": {"values": [1]}}, "method": "grid"}, "parameters.optim.lrr", "Did you mean lr"),
        ({"parameters": {"optim.lr": {"min": -1, "max": 1}}, "max_trials": 2}, "parameters.optim.lr", "-1"),
        ({"parameters": {"optim.lr": {"values": [1e-4, "high"]}}, "method": "grid"}, "parameters.optim.lr", "'high'"),
        ({"trials": [{"optim.lr": 1e-4}, {"optim.lr": "high"}]}, "trials.1.optim.lr", "high"),
        ({"trials": [{"seed": 1}], "metric": "holdout/top1"}, "metric", "data.evaluate.holdout"),
        ({"trials": [{"seed": 1}], "job": {"model": "ViT-B-33"}}, "job.spec.model.name", "ViT-B-33"),
        (
            {"parameters": {"seed": {"min": 0, "max": 99, "step": 1}, "optim.eps": {"values": list(range(1, 50))}},
             "method": "grid"},
            "parameters",
            "at most 1000",
        ),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_run_is_refused_by_name(sweeps, fields, param, words):
    answer = sweeps.post(**fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert sweeps.http.get("/v1/fine_tuning/sweeps").json()["data"] == []


@pytest.mark.slow
def test_the_command_line_submits_a_sweep_file_and_shows_its_results(sweeps, tmp_path, capsys):
    file = tmp_path / "rates.yaml"
    file.write_text(
        "summary: rates\nrecipe: flyp\nset: {model.name: ViT-B-32}\ngrid: {optim.lr: [0.001, 0.0001]}\n",
        encoding="utf-8",
    )
    data = [f"--set=data.{name}={sweeps.service.data}" for name in ("train", "validation")]
    at = ["--url", sweeps.service.url]
    assert run(["sweep", "submit", str(file), *data, "--json", *at]) == 0
    id = json.loads(capsys.readouterr().out)["id"]
    sweeps.wait_for(id, "succeeded")
    assert run(["sweep", "results", id, "--csv", *at]) == 0
    first = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (first["rank"], first["optim.lr"]) == ("1", "0.0001")
    assert run(["sweep", "status", id, *at]) == 0
    assert "succeeded" in capsys.readouterr().out
