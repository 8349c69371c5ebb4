"""What happens in the demo, stage by stage."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from service.cli.demo.digits import CLASS_NAMES, held_out_examples, write_digits
from service.cli.demo.picture import draw_predictions
from service.cli.demo.processes import DemoProcesses
from service.cli.exits import DONE, FAILED, CommandError
from service.cli.output import console, duration, error_console, percent, print_error, print_json, print_table
from service.cli.watching import JobDisplay
from service.client import AttuneClient
from service.launchers.base import Capacity
from service.launchers.devices import find_devices
from service.launchers.local import trainer_script

GOAL = 0.95
TEMPLATES = ["a photo of the digit {}.", "a scan of a handwritten {}.", "the number {}.", "a handwritten digit {}."]
_NUM_STAGES = 6
_NUM_WORKERS = 2
_NUM_EXAMPLES = 8
_PATIENCE_S = 180.0  # the first question waits for a process with torch to start, which a busy machine makes slow


@dataclass
class Outcome:
    """What the demo found, for the last words and for `--json`."""

    job: dict[str, Any] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    per_class: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)


class _Stages:
    """A numbered line for each stage, on stderr where stdout is for JSON."""

    def __init__(self, *, json: bool) -> None:
        self.console = error_console if json else console
        self._started = time.monotonic()
        self._number = 0

    def begin(self, title: str) -> None:
        """Announce the next stage."""
        self._number += 1
        self.console.print(f"[bold]\\[{self._number}/{_NUM_STAGES}][/bold] {escape(title)}")

    def say(self, text: str) -> None:
        """A line of plain text below it."""
        self.console.print(f"  {escape(text)}", soft_wrap=True)

    @property
    def elapsed(self) -> str:
        """Time since the first stage."""
        return duration(time.monotonic() - self._started)


def tell(processes: DemoProcesses, *, output: Path, port: int, keep_serving: bool, json: bool) -> int:
    """Run the demo from the first image to the last words; returns the exit code."""
    stages = _Stages(json=json)
    images = output / "digits"
    stages.begin("Writing scikit-learn's handwritten digits as JPEG files")
    counts = write_digits(images)
    stages.say(f"{counts['train']} to train on, {counts['heldout']} held out, in {images}")

    stages.begin("Starting the service and submitting a fine-tuning job to it")
    url = processes.start_service(port=port)
    with AttuneClient(url, timeout_s=_PATIENCE_S) as client:
        capacity = find_devices(cpu_slots=_NUM_WORKERS, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
        job = client.create_job(recipe="flyp", spec=job_spec(images, capacity=capacity), suffix="digits")
        stages.say(f"service: {url} (API: {url}/docs)")
        stages.say(f"job: {job['id']}, {_describe(job)}")

        stages.begin("Training")
        outcome = _follow(client, job["id"], stages)

        stages.begin("Zero-shot accuracy on the held-out images")
        _show_accuracy(outcome, stages, json=json)

        stages.begin("Asking the model about held-out images, over HTTP")
        examples = held_out_examples(images, count=_NUM_EXAMPLES)
        outcome.predictions = _ask(client, outcome.job["fine_tuned_model"], examples, stages, json=json)

    stages.begin("Drawing them")
    picture = output / "predictions.png"
    draw_predictions(examples, [p["zero_shot"] for p in outcome.predictions], path=picture)
    _last_words(outcome, stages, url=url, output=output, picture=picture, keep_serving=keep_serving)
    if json:
        print_json(_as_json(outcome, url=url, output=output, picture=picture))
    if keep_serving:
        stages.say("the service stays up; Ctrl-C ends it")
        processes.wait_for_service()
    if outcome.after < GOAL:
        print_error(f"zero-shot accuracy {percent(outcome.after)} is below the expected {percent(GOAL)}")
        return FAILED
    return DONE


def job_spec(images: Path, *, capacity: Capacity) -> dict[str, Any]:
    """The demo's job as a partial spec: recipe `flyp` scaled down to a CLIP of 5 million parameters from scratch."""
    parallel: dict[str, Any] = {"zero_stage": 2, "devices": min(_NUM_WORKERS, capacity.count)}
    if capacity.kind == "cpu":
        parallel["precision"] = "fp32"  # few CPUs have fast bfloat16
    return {
        "model": "attune-tiny-32",
        "data": {
            "train": str(images / "train"),
            "validation": str(images / "heldout"),
            "templates": TEMPLATES,
            "augmentation": {"crop_scale": [0.7, 1.0]},
        },
        "batch": {"global_size": 64},
        "optim": {"lr": 1e-3, "clip_grad_norm": 1.0, "decay_vectors": False},
        "schedule": {"epochs": 16, "warmup_steps": 40},
        "checkpoint": {"every_steps": 176},
        "evaluation": {"every_steps": 176},
        "export": {"checkpoint": "last"},
        "parallel": parallel,
        "metadata": {"made-by": "attune demo"},
    }


def _describe(job: dict[str, Any]) -> str:
    parallel = job["spec"]["parallel"]
    return f"recipe {job['recipe']}, {job['model']}, ZeRO-{parallel['zero_stage']}, {parallel['devices']} workers"


def _follow(client: AttuneClient, job_id: str, stages: _Stages) -> Outcome:
    """Show the job's events until it has ended, and keep the accuracy before and after."""
    evaluations: list[dict[str, Any]] = []
    with JobDisplay(stages.console) as display:
        for event in client.events(job_id):
            display.show(event)
            data = event.get("data") or {}
            if data.get("type") == "evaluation" and data["dataset"] == "validation":
                evaluations.append(data)
    job = client.job(job_id)
    if job["status"] != "succeeded":
        reason = job["error"]["message"] if job["error"] else "no reason given"
        raise CommandError(f"the job {job['status']}: {reason}; its folder: {job['job_dir']}")
    first, last = evaluations[0], evaluations[-1]
    return Outcome(job=job, before=first["metrics"]["top1"], after=last["metrics"]["top1"], per_class=last["per_class"])


def _show_accuracy(outcome: Outcome, stages: _Stages, *, json: bool) -> None:
    stages.console.print(f"  before training {percent(outcome.before)}, after [bold]{percent(outcome.after)}[/bold]")
    if not json:
        rows = ((row["name"], row["num_samples"], percent(row["accuracy"])) for row in outcome.per_class)
        print_table(("  class", "images", "accuracy"), ((f"  {name}", *rest) for name, *rest in rows))


def _ask(
    client: AttuneClient, model: str, examples: list[Path], stages: _Stages, *, json: bool
) -> list[dict[str, Any]]:
    """The best answers of /v1/zero-shot and /v1/classify for each example."""
    zero_shot = client.zero_shot(model, examples, CLASS_NAMES, templates=TEMPLATES, top_k=1)
    classified = client.classify(model, examples, top_k=1)
    answers = [
        {
            "image": str(image),
            "truth": image.parent.name,
            "zero_shot": z["predictions"][0],
            "classify": c["predictions"][0],
        }
        for image, z, c in zip(examples, zero_shot, classified, strict=True)
    ]
    stages.say(f"model: {model}")
    if not json:
        rows = ((f"  {a['truth']}", *(_answer(a[way]) for way in ("zero_shot", "classify"))) for a in answers)
        print_table(("  held-out image of", "/v1/zero-shot says", "/v1/classify says"), rows)
    return answers


def _answer(best: dict[str, Any]) -> str:
    return f"{best['label']} ({percent(best['probability'])})"


def _last_words(
    outcome: Outcome, stages: _Stages, *, url: str, output: Path, picture: Path, keep_serving: bool
) -> None:
    job_dir = Path(outcome.job["job_dir"])
    stages.say(f"picture:  {picture}")
    stages.say(f"model:    {job_dir / 'export'} (open_clip loads it as local-dir:FOLDER)")
    stages.say(f"job:      {job_dir}")
    stages.say(f"log:      {output / 'service.log'}")
    stages.console.print(f"[bold green]Done[/bold green] in {stages.elapsed}. What to try next:")
    service_again = f"{_program('attune')} serve --data-dir {output / 'service'}"
    photos = "--set data.train=FOLDER --set batch.global_size=64 --set schedule.warmup_steps=20"
    for what, command in (
        ("ask it yourself", f"{_program('attune')} models list --url {url}" if keep_serving else service_again),
        (
            "your own photos, in a folder a class",
            f"{_program('attune')} train --recipe flyp --set model.name=attune-small-64 --set optim.lr=1e-3 {photos}",
        ),
        ("a pretrained model, on a GPU", f"{_program('attune')} train --recipe flyp {photos}"),
        ("DeepSpeed by hand", f"{_program('deepspeed')} {trainer_script('run.py')} --recipe flyp {photos}"),
    ):
        stages.say(f"{what}:\n    {command}")


def _program(name: str) -> str:
    """A console script as it can be typed here: by name if the shell finds it, otherwise with its folder."""
    beside_python = Path(sys.executable).parent / name
    return name if shutil.which(name) else os.path.relpath(beside_python)


def _as_json(outcome: Outcome, *, url: str, output: Path, picture: Path) -> dict[str, Any]:
    return {
        "url": url,
        "output": str(output),
        "picture": str(picture),
        "job": outcome.job["id"],
        "model": outcome.job["fine_tuned_model"],
        "job_dir": outcome.job["job_dir"],
        "accuracy_before": outcome.before,
        "accuracy_after": outcome.after,
        "per_class": outcome.per_class,
        "predictions": outcome.predictions,
    }
