"""Checkpoints that become models over REST, by a process that exports nothing but files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.jobs.promotion import Promotions

PROGRAM = Path(__file__).parent / "processes" / "short_promotion.py"


class Checkpoints:
    """A job that has ended, and its checkpoints over HTTP."""

    def __init__(self, service: Any) -> None:
        self.http = httpx.Client(base_url=f"{service.url}/v1", timeout=60)
        body = {"model": "ViT-B-32", "recipe": "flyp", "training_file": str(service.data), "suffix": "pets"}
        job = self.http.post("/fine_tuning/jobs", json=body).json()["id"]
        self.job = self.wait(lambda: self.http.get(f"/fine_tuning/jobs/{job}").json(), lambda job: job["finished_at"])
        self.folder = Path(self.job["job_dir"])
        self.base = f"/fine_tuning/jobs/{job}/checkpoints"
        self.listed = self.http.get(self.base).json()["data"]
        for checkpoint in self.listed:
            (self.folder / "checkpoints" / checkpoint["name"]).mkdir(parents=True)

    def wait(self, look: Callable[[], dict], condition: Callable[[dict], Any]) -> dict:
        deadline = time.monotonic() + 60
        while not condition(found := look()):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def promote(self, checkpoint: dict, **given: Any) -> httpx.Response:
        return self.http.post(f"{self.base}/{checkpoint['id']}/promote", **given)

    def ended(self, checkpoint: dict) -> dict:
        look = f"{self.base}/{checkpoint['id']}/promotion"
        return self.wait(lambda: self.http.get(look).json(), lambda found: found["status"] != "running")


@pytest.fixture
def checkpoints(service):
    state = service.app.state
    state.promotions = Promotions(
        state.store, command=lambda job, name, into: [sys.executable, str(PROGRAM), str(into), str(job.path)]
    )
    return Checkpoints(service)


def test_a_checkpoint_becomes_a_model_once(checkpoints):
    newest = checkpoints.listed[0]
    first = checkpoints.promote(newest, headers={"Idempotency-Key": "a"})
    assert (first.status_code, first.json()["status"], first.json()["model"]) == (200, "running", None)
    assert checkpoints.promote(newest).json()["status"] == "running"
    (checkpoints.folder / "go").touch()
    done = checkpoints.ended(newest)
    assert (done["status"], done["checkpoint"], done["error"]) == ("succeeded", newest["id"], None)
    assert done["model"].endswith(f":ckpt-{newest['name']}")
    model = checkpoints.http.get(f"/models/{done['model']}").json()
    assert (model["job"], model["class_names"]) == (checkpoints.job["id"], ["cat", "dog"])
    assert model["metrics"] == {"validation/top1": 0.5}
    assert checkpoints.promote(newest).json() == done
    listed = checkpoints.http.get("/models").json()["data"]
    assert sorted(found["id"] for found in listed) == sorted([done["model"], checkpoints.job["fine_tuned_model"]])


def test_a_promotion_that_failed_says_why_and_may_be_tried_again(checkpoints):
    newest = checkpoints.listed[0]
    for name in ("go", "broken"):
        (checkpoints.folder / name).touch()
    checkpoints.promote(newest)
    failed = checkpoints.ended(newest)
    assert (failed["status"], failed["error"], failed["model"]) == ("failed", "the weights are torn", None)
    (checkpoints.folder / "broken").unlink()
    assert checkpoints.promote(newest).json()["status"] == "running"
    assert checkpoints.ended(newest)["status"] == "succeeded"


def test_no_more_than_two_are_promoted_at_once(checkpoints):
    for checkpoint in checkpoints.listed[:2]:
        assert checkpoints.promote(checkpoint).status_code == 200
    refused = checkpoints.promote(checkpoints.listed[2])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    (checkpoints.folder / "go").touch()
    for checkpoint in checkpoints.listed[:2]:
        assert checkpoints.ended(checkpoint)["status"] == "succeeded"
