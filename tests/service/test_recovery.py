"""The whole system, nothing shortened: `attune serve`, DeepSpeed, DALI; and kill -9 of each of its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from service.client import AttuneClient
from trainer import events
from trainer.job_dir import JobDir

pytestmark = pytest.mark.slow

MAX_STEPS = 60
KILL_AT_STEP = 15


class Service:
    """One `attune serve` that can be killed and started again on the same data."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-P", "-m", "service.cli", "serve", "--json", "--port", "0"]
        self.process = subprocess.Popen(
            [*argv, "--data-dir", str(self.data_dir)],
            env=os.environ | {"ATTUNE_CPU_SLOTS": "2"},
            stdout=subprocess.PIPE,
            stderr=(self.data_dir.parent / "service.log").open("a"),
            text=True,
        )
        assert self.process.stdout is not None
        self.client = AttuneClient(json.loads(self.process.stdout.readline())["url"])

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    one = Service(tmp_path / "attune")
    yield one
    one.stop()
    for process in job_processes(tmp_path):
        process.kill()


def job_processes(folder: Path) -> list[psutil.Process]:
    """Everything alive that works in a job folder below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if str(folder) in command and "--job-dir" in command and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def submit(service: Service, digits: Path) -> JobDir:
    spec = {
        "model": "attune-tiny-32",
        "data": {"validation": str(digits / "heldout"), "templates": ["the digit {}."]},
        "batch": {"global_size": 40},
        "optim": {"lr": 5e-4, "clip_grad_norm": 1.0, "ema_decay": 0.99},
        "schedule": {"epochs": None, "max_steps": MAX_STEPS, "warmup_steps": 5},
        "checkpoint": {"every_steps": 10},
        "evaluation": {"every_steps": MAX_STEPS, "before_training": False},
        "export": {"weights": "raw"},
        "parallel": {"devices": 2, "zero_stage": 2, "precision": "fp32"},
        "log_every_steps": 1,
    }
    job = service.client.create_job(recipe="flyp", training_file=str(digits / "train"), spec=spec)
    return JobDir(Path(job["job_dir"]))


def finished(service: Service, job: JobDir) -> dict:
    """The job once it has ended, with its whole event stream checked for gaps."""
    list(service.client.events(job.path.name))
    return service.client.job(job.path.name)


def logged_steps(job: JobDir) -> list[list[int]]:
    """Logged steps of each attempt."""
    read = [events.read_events(attempt.events)[0] for attempt in job.attempts()]
    return [[event.step for event in found if event.type == "step"] for found in read]


def wait_for_step(job: JobDir, step: int) -> None:
    deadline = time.monotonic() + 400
    while not any(step <= logged for steps in logged_steps(job) for logged in steps):
        assert time.monotonic() < deadline, "the job did not get so far"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the same job without any disturbance."""
    service = Service(tmp_path_factory.mktemp("undisturbed") / "attune")
    job = submit(service, digits)
    ended = finished(service, job)
    service.stop()
    assert ended["status"] == "succeeded", ended["error"]
    assert logged_steps(job) == [list(range(1, MAX_STEPS + 1))]
    return load_file(job.export / "open_clip_model.safetensors")


@pytest.mark.nightly
@pytest.mark.parametrize("victim", ["worker", "launcher", "control plane"])
def test_kill_9_loses_nothing(
    service: Service, digits: Path, undisturbed: dict[str, torch.Tensor], victim: str
) -> None:
    job = submit(service, digits)
    wait_for_step(job, KILL_AT_STEP)
    if victim == "control plane":
        service.kill()
        time.sleep(2)
        service.start()
    else:
        needle = "--local_rank=1" if victim == "worker" else "deepspeed.launcher.runner"
        next(p for p in job_processes(job.path) if needle in p.cmdline()).kill()

    ended = finished(service, job)

    assert ended["status"] == "succeeded", ended["error"]
    weights = load_file(job.export / "open_clip_model.safetensors")
    assert [name for name in undisturbed if not torch.equal(undisturbed[name], weights[name])] == []
    assert job_processes(job.path) == []
    if victim == "control plane":
        assert logged_steps(job) == [list(range(1, MAX_STEPS + 1))]
        assert metric_steps(service, job) == list(range(1, MAX_STEPS + 1))
    else:
        first, second = logged_steps(job)
        assert second[0] <= first[-1] + 1
        assert second[-1] == MAX_STEPS


def metric_steps(service: Service, job: JobDir) -> list[int]:
    """Steps of the metric events that the API tells, in their order."""
    told = [event for event in service.client.events(job.path.name) if event["type"] == "metrics"]
    return [event["data"]["step"] for event in told]


def test_a_finished_model_answers_as_plain_open_clip_does(service: Service, digits: Path) -> None:
    job = submit(service, digits)
    model = finished(service, job)["fine_tuned_model"]
    pictures = sorted((digits / "heldout").glob("*/24.jpg"))
    names = sorted({path.parent.name for path in pictures})

    answer = service.client.zero_shot(model, pictures, class_names=names, templates=["the digit {}."], top_k=len(names))

    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{job.export}")
    tokens = open_clip.get_tokenizer(f"local-dir:{job.export}")([f"the digit {name}." for name in names])
    with torch.no_grad():
        images = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in pictures])
        logits = clip.eval()(images, tokens)[2] * clip.encode_image(images, True) @ clip.encode_text(tokens, True).T
    expected = logits.softmax(-1).numpy()
    for row, told in zip(expected, answer, strict=True):
        probabilities = {each["label"]: each["probability"] for each in told["predictions"]}
        np.testing.assert_allclose([probabilities[name] for name in names], row, atol=0.02)
