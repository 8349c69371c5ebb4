"""The whole training step of `trainer/run.py` against open_clip's trainer: same model, batch, data and cores.

    pip install pandas webdataset braceexpand     # what open_clip_train needs besides open_clip_torch
    python benchmarks/train_step.py [--models ViT-S-32 attune-small-64] [--batch-size 32] [--rounds 3] [--json FILE]

Both are launched as their users do: `deepspeed trainer/run.py` with the environment of `attune train`, and
`python -m open_clip_train.main` (with `--devices` above 1, `torchrun`, which is DDP). Rounds alternate. An image's cost
is all there is: reading, decoding, the crop, tokens, forward, backward, optimizer. Images/s are the batch over the
median step of what each side reports itself, after warm-up; the last steps are dropped too, as open_clip's workers have
then run out of work. On a machine with GPUs both take them; that has not been measured yet.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from generated_photos import write_captions, write_photos

import trainer
from service.launchers.base import Run
from service.launchers.local import LocalLauncher, deepspeed_command, free_port
from trainer.events import Step, read_events
from trainer.job_dir import JobDir

_ARCHITECTURES = Path(trainer.__file__).parent / "architectures"
_BATCH_SECONDS = re.compile(r"Batch \(t\): ([0-9.]+)")
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Case:
    """What both sides are given."""

    model: str
    batch_size: int
    precision: str
    table: Path
    steps: int
    warmup: int
    devices: int
    workers: int
    log_every: int

    def median_step(self, seconds: Sequence[float]) -> float:
        """Seconds of a step, without the first ones and those at the end."""
        tail = 2 * self.workers + 1 if len(seconds) > self.warmup + 2 * self.workers + 1 else 0
        return statistics.median(seconds[self.warmup : len(seconds) - tail])


def run_attune(case: Case, folder: Path) -> list[float]:
    """Seconds of each logged step of `deepspeed trainer/run.py`."""
    launcher = LocalLauncher(cpu_slots=case.devices)
    run = Run(job_id="train-step", attempt=1, job_dir=folder, devices=launcher.capacity().devices[: case.devices])
    spec = {
        "model": case.model,
        "objective": {"name": "contrastive"},
        "data": {"train": {"format": "csv", "path": str(case.table), "images_root": str(_common_folder(case.table))}},
        "batch": {"global_size": case.batch_size * case.devices},
        "schedule": {"epochs": None, "max_steps": 10 * case.steps, "warmup_steps": 10},
        "parallel": {"precision": case.precision, "devices": case.devices},
        "log_every_steps": case.log_every,
    }
    described = folder.with_suffix(".yaml")
    described.write_text(yaml.safe_dump(spec), encoding="utf-8")
    command = [*deepspeed_command(run, launcher.capacity(), free_port()), "--spec", str(described)]
    events = JobDir(folder).attempt(1).events

    def seconds() -> list[float]:
        steps = [event for event in read_events(events)[0] if isinstance(event, Step)]
        return [case.batch_size * case.devices / step.images_per_s for step in steps]

    return _watch(command, launcher.environment(run), seconds, case=case, log=folder.with_suffix(".log"))


def run_open_clip(case: Case, folder: Path) -> list[float]:
    """Seconds of each logged step of open_clip_train: the mean over each of its logging windows."""
    spread = ["-m", "torch.distributed.run", "--nproc_per_node", str(case.devices)] if case.devices > 1 else []
    log = folder.with_suffix(".log")
    command = [sys.executable, *spread, "-m", "open_clip_train.main"]
    command += ["--model", _model_for_open_clip(case.model, folder), "--precision", case.precision]
    command += ["--train-data", str(case.table), "--dataset-type", "csv", "--csv-separator", ","]
    command += ["--csv-img-key", "image", "--csv-caption-key", "caption", "--workers", str(case.workers)]
    command += ["--batch-size", str(case.batch_size), "--epochs", "1", "--warmup", "10", "--lr", "1e-5"]
    command += ["--logs", "none", "--name", folder.name, "--log-every-n-steps", str(case.log_every)]

    def seconds() -> list[float]:
        return [float(found) for found in _BATCH_SECONDS.findall(log.read_text(encoding="utf-8"))]

    return _watch(command, dict(os.environ), seconds, case=case, log=log)


def _watch(
    command: Sequence[str], environment: dict[str, str], seconds: Callable[[], list[float]], *, case: Case, log: Path
) -> list[float]:
    """Run a trainer until it has logged enough steps, or ends by itself, and end it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )
        try:
            deadline = time.monotonic() + _TIMEOUT_S
            while len(seconds()) < case.steps and process.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.3)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = seconds()
    if len(found) <= case.warmup:
        ending = log.read_text(encoding="utf-8")[-3000:]
        sys.exit(f"{' '.join(command)} logged {len(found)} steps; its output ends:\n{ending}")
    return found


def _model_for_open_clip(name: str, folder: Path) -> str:
    """The name, or for an architecture of Attune's own a folder that open_clip reads."""
    own = _ARCHITECTURES / f"{name}.json"
    if not own.exists():
        return name
    place = folder.parent / name
    place.mkdir(exist_ok=True)
    config = {"model_cfg": json.loads(own.read_text(encoding="utf-8")), "preprocess_cfg": {}}
    (place / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{place}"


def _common_folder(table: Path) -> str:
    with table.open(newline="", encoding="utf-8") as file:
        return os.path.commonpath([Path(row["image"]).parent for row in csv.DictReader(file)])


def measure(case: Case, *, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Images/s of both sides in each round; who begins alternates."""
    sides = {"attune": run_attune, "open_clip": run_open_clip}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sorted(sides, reverse=number % 2 == 1):
            place = folder / f"{case.model}-{side}-{number}"
            rate = case.batch_size * case.devices / case.median_step(sides[side](case, place))
            shutil.rmtree(place, ignore_errors=True)
            found[side].append(rate)
            print(f"{case.model}, round {number + 1}, {side}: {rate:.2f} images/s", file=sys.stderr, flush=True)
    return found


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row a model; the ratio is the median of the rounds' ratios."""
    lines = ["| model | Attune, images/s | open_clip_train, images/s | ratio | by round |", "|---|---|---|---|---|"]
    for model, sides in results.items():
        ratios = [ours / theirs for ours, theirs in zip(sides["attune"], sides["open_clip"], strict=True)]
        ours, theirs = (statistics.median(sides[side]) for side in ("attune", "open_clip"))
        by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {model} | {ours:.2f} | {theirs:.2f} | {statistics.median(ratios):.2f} | {by_round} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-S-32", "attune-small-64"])
    parser.add_argument("--batch-size", type=int, default=32, help="images a device")
    parser.add_argument("--precision", default="amp_bf16", choices=["amp_bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=14, help="logged steps a round")
    parser.add_argument("--warmup", type=int, default=3, help="logged steps that are dropped")
    parser.add_argument("--log-every", type=int, default=1, help="steps a logged one stands for; on a GPU 10 or more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1, help="GPUs, or processes on a machine without")
    parser.add_argument("--cores", type=int, help="use only so many cores")
    parser.add_argument("--workers", type=int, help="open_clip's loader processes a device; by default the cores")
    parser.add_argument("--data", type=Path, help="CSV with absolute paths in `image` and texts in `caption`")
    parser.add_argument("--json", type=Path, help="also write every round there")
    given = parser.parse_args()
    if given.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="train-step-") as temporary:
        folder = Path(temporary)
        needed = given.steps * given.log_every * given.batch_size * given.devices + given.batch_size
        data = given.data or write_captions(folder / "captions.csv", write_photos(folder / "photos", count=needed))
        results = {}
        for model in given.models:
            case = Case(
                model=model,
                batch_size=given.batch_size,
                precision=given.precision,
                table=data.resolve(),
                steps=given.steps,
                warmup=given.warmup,
                devices=given.devices,
                workers=given.workers or max(1, cores // given.devices),
                log_every=given.log_every,
            )
            results[model] = measure(case, rounds=given.rounds, folder=folder)
    print(f"batch {given.batch_size} x {given.devices}, {given.precision}, {cores} cores, {given.rounds} rounds\n")
    print(table(results))
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
