"""How far the estimated memory is from what training takes: five jobs, each with DeepSpeed on CPU processes.

    DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 python benchmarks/estimates.py [--only NAME] [--measured FILE] [--out FILE]

What is measured is the largest resident memory of a rank after its first step and before its last, less that of the
same job with a model of next to nothing: Python, torch, DeepSpeed and the loader. On the CPU a rank also keeps a copy
of the weights for evaluation, which on a GPU is not in the device's memory: it is told apart in the table.

A run takes half a minute to minutes; `--measured` keeps what was measured, so that it need not be measured again when
only the estimate has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from service.launchers.base import Run, on_this_machine
from service.launchers.local import LocalLauncher, deepspeed_command, free_port
from trainer.job_dir import JobDir, write_json_atomically
from trainer.resolve import resolve

_MEBIBYTE = 2**20
_POLL_S = 0.02
_STEPS = 4

JOBS: dict[str, dict[str, Any]] = {
    "stage-0": {"model": "ViT-S-32", "parallel": {"devices": 1, "zero_stage": 0}, "batch": {"global_size": 32}},
    "stage-1": {"model": "ViT-S-32", "parallel": {"devices": 2, "zero_stage": 1}, "batch": {"global_size": 16}},
    "stage-2-average": {
        "model": "ViT-S-32",
        "parallel": {"devices": 2, "zero_stage": 2},
        "batch": {"global_size": 16},
        "optim": {"ema_decay": 0.99},
    },
    "stage-3": {"model": "ViT-S-32", "parallel": {"devices": 2, "zero_stage": 3}, "batch": {"global_size": 16}},
    "checkpointed-locked": {
        "model": {"name": "ViT-B-32", "text": {"lock": True}},
        "parallel": {"devices": 1, "zero_stage": 0, "activation_checkpointing": True},
        "batch": {"global_size": 16},
    },
}
"""What is estimated and measured: parts of a spec."""
BASELINE_MODEL = "attune-tiny-32"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(JOBS))
    parser.add_argument("--measured", type=Path, help="read what is there, and add what is measured")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = Measured(Path(folder), kept=given.measured)
        rows = [_row(name, measured) for name in given.only or JOBS]
    print("| job | predicted MiB | + CPU copy | measured MiB | error |\n|---|---|---|---|---|")
    for row in rows:
        figures = (row["predicted"], row["with_copy"], row["measured"])
        cells = " | ".join(f"{figure / _MEBIBYTE:.0f}" for figure in figures)
        print(f"| {row['job']} | {cells} | {row['error']:+.1%} |")
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


class Measured:
    """Largest resident memory of a rank by job, measured once each."""

    def __init__(self, folder: Path, *, kept: Path | None) -> None:
        self._folder = folder
        self._kept = kept
        self._found: dict[str, int] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}

    def images(self, name: str) -> Path:
        """The data of a job."""
        return _images(self._folder / "images", count=_STEPS * JOBS[name]["batch"]["global_size"])

    def peak(self, name: str, *, model: str | None = None) -> int:
        """Bytes; with `model`, of the same job with that one."""
        label = name if model is None else f"baseline of {JOBS[name]['parallel']['devices']}"
        if label not in self._found:
            spec = _spec(name, images=self.images(name), model=model)
            self._found[label] = _measure(spec, self._folder / label.replace(" ", "-"))
            print(f"{label}: {self._found[label] / _MEBIBYTE:.0f} MiB", flush=True)
            if self._kept is not None:
                self._kept.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")
        return self._found[label]


def _row(name: str, measured: Measured) -> dict[str, Any]:
    """A job's figures."""
    taken = measured.peak(name) - measured.peak(name, model=BASELINE_MODEL)
    plan = _plan(_spec(name, images=measured.images(name)))
    stage = plan["memory"]["stages"][str(plan["memory"]["zero_stage"])]
    with_copy = stage["total"] + 4 * plan["parameters"]["total"]
    return {
        "job": name,
        "predicted": stage["total"],
        "with_copy": with_copy,
        "measured": taken,
        "error": with_copy / taken - 1,
        "parts": stage,
    }


def _spec(name: str, *, images: Path, model: str | None = None) -> Any:
    parts = {key: value for key, value in JOBS[name].items() if key != "model"}
    data = {"train": {"format": "image_folder", "path": str(images)}}
    spec = {
        "model": JOBS[name]["model"] if model is None else {"name": model},
        "objective": {"name": "class_prompts"},
        "data": data,
        "schedule": {"max_steps": _STEPS},
        "log_every_steps": 1,
        **parts,
    }
    return resolve(spec=spec)


def _images(folder: Path, *, count: int) -> Path:
    """Noise of the models' input size, in four classes."""
    for number in range(count):
        path = folder / f"class {number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (224, 224, 3), dtype=np.uint8)).save(path)
    return folder


def _plan(spec: Any) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-m", "trainer.plan"], input=spec.model_dump_json(), capture_output=True, text=True, check=True
    )
    made: dict[str, Any] = json.loads(child.stdout)
    return made


def _measure(spec: Any, folder: Path) -> int:
    """Largest resident memory of any rank in training, in bytes."""
    job = JobDir(folder)
    write_json_atomically(job.spec, spec)
    subprocess.run([sys.executable, "-m", "trainer.preflight", "--job-dir", str(folder)], check=True)
    launcher = LocalLauncher(cpu_slots=spec.parallel.devices)
    placement = on_this_machine(range(spec.parallel.devices))
    run = Run(job_id=folder.name, attempt=1, job_dir=folder, placement=placement)
    command = deepspeed_command(run, launcher.capacity(), free_port())
    # Otherwise the C library keeps much of what is freed, and the largest size would say little.
    environment = {**launcher.environment(run), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with (folder / "launch.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            peak = _watch(child, job)
        finally:
            _end(child)
    if peak is None:
        raise SystemExit(f"{folder.name} did not train:\n{(folder / 'launch.log').read_text()[-3000:]}")
    return peak


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """End a launch with all its ranks, which would otherwise go on writing to the folder that is to be removed."""
    try:
        everything = psutil.Process(launcher.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        everything = []
    for process in everything:
        process.kill()
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    psutil.wait_procs(everything, timeout=20)


def _watch(child: subprocess.Popen[bytes], job: JobDir) -> int | None:
    """The ranks' largest resident memory from the end of the first step to that of the last; None if none got there."""
    steps, ranks, peak = 0, [], 0
    while child.poll() is None and steps < _STEPS:
        peak = max([peak, *(_resident(rank) for rank in ranks)])  # before the look: a checkpoint follows the last step
        steps = sum('"type":"step"' in line.replace(" ", "") for line in _events(job))
        if steps and not ranks:
            ranks = _ranks(child.pid)
            for rank in ranks:
                Path(f"/proc/{rank.pid}/clear_refs").write_text("5")  # begin to measure: proc(5)
        time.sleep(_POLL_S)
    return peak if steps >= _STEPS else None


def _events(job: JobDir) -> list[str]:
    attempts = job.attempts()
    path = attempts[-1].events if attempts else None
    return path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []


def _ranks(launcher: int) -> list[psutil.Process]:
    try:
        below = psutil.Process(launcher).children(recursive=True)
    except psutil.Error:
        return []
    return [process for process in below if "--local_rank" in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    """The kernel's own record of the most that a process has had."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1024 if found else 0


if __name__ == "__main__":
    main()
