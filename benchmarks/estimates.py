"""How far the estimated memory is from what training takes: five jobs, each with DeepSpeed on CPU processes.

    DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 python benchmarks/estimates.py [--only NAME] [--out table.json]

What is measured is the largest resident memory of a rank after its first step and before its first checkpoint, less
that of the same job with a model of next to nothing: Python, torch, DeepSpeed and the loader. On the CPU a rank also
keeps a copy of the weights for evaluation, which a GPU does not: it is told apart in the table.
"""

from __future__ import annotations

import argparse
import json
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
    "clip-stage-0": {"model": "ViT-B-32", "parallel": {"devices": 1, "zero_stage": 0}, "batch": {"global_size": 16}},
    "clip-stage-1": {"model": "ViT-B-32", "parallel": {"devices": 2, "zero_stage": 1}, "batch": {"global_size": 32}},
    "clip-stage-2-average": {
        "model": "ViT-B-32",
        "parallel": {"devices": 2, "zero_stage": 2},
        "batch": {"global_size": 16},
        "optim": {"ema_decay": 0.99},
    },
    "clip-stage-3": {"model": "ViT-B-32", "parallel": {"devices": 2, "zero_stage": 3}, "batch": {"global_size": 16}},
    "clip-checkpointed": {
        "model": "ViT-B-32",
        "parallel": {"devices": 1, "zero_stage": 0, "activation_checkpointing": True},
        "batch": {"global_size": 64},
    },
}
"""What is estimated and measured: parts of a spec."""
BASELINE_MODEL = "attune-tiny-32"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(JOBS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        baselines: dict[int, int] = {}
        rows = [_row(name, Path(folder), baselines) for name in given.only or JOBS]
    print("| job | predicted MiB | + CPU copy | measured MiB | error |\n|---|---|---|---|---|")
    for row in rows:
        figures = (row["predicted"], row["with_copy"], row["measured"])
        cells = " | ".join(f"{figure / _MEBIBYTE:.0f}" for figure in figures)
        print(f"| {row['job']} | {cells} | {row['error']:+.1%} |")
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _row(name: str, folder: Path, baselines: dict[int, int]) -> dict[str, Any]:
    """A job's figures. `baselines` remembers what is there anyway, by number of ranks."""
    images = _images(folder / "images", count=_STEPS * JOBS[name]["batch"]["global_size"])
    plan = _plan(_spec(name, images=images))
    stage = plan["memory"]["stages"][str(plan["memory"]["zero_stage"])]
    copy = 4 * plan["parameters"]["total"]
    measured = _measure(_spec(name, images=images), folder / name)
    devices = JOBS[name]["parallel"]["devices"]
    if devices not in baselines:
        baselines[devices] = _measure(_spec(name, images=images, model=BASELINE_MODEL), folder / f"baseline-{devices}")
    baseline = baselines[devices]
    taken = measured - baseline
    with_copy = stage["total"] + copy
    print(f"{name}: {measured / _MEBIBYTE:.0f} MiB, of which {baseline / _MEBIBYTE:.0f} are there anyway", flush=True)
    return {
        "job": name,
        "predicted": stage["total"],
        "with_copy": with_copy,
        "measured": taken,
        "baseline": baseline,
        "error": with_copy / taken - 1,
        "parts": stage,
    }


def _spec(name: str, *, images: Path, model: str | None = None) -> Any:
    parts = {key: value for key, value in JOBS[name].items() if key != "model"}
    data = {"train": {"format": "image_folder", "path": str(images)}}
    spec = {
        "model": {"name": model or JOBS[name]["model"]},
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
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            peak = _watch(child, job)
        finally:
            if child.poll() is None:
                child.terminate()
            child.wait()
    if peak is None:
        raise SystemExit(f"{folder.name} did not train:\n{(folder / 'launch.log').read_text()[-3000:]}")
    return peak


def _watch(child: subprocess.Popen[bytes], job: JobDir) -> int | None:
    """The ranks' largest resident memory from the end of the first step to that of the last; None if none got there."""
    steps, ranks = 0, []
    while child.poll() is None and steps < _STEPS:
        steps = sum('"type":"step"' in line.replace(" ", "") for line in _events(job))
        if steps and not ranks:
            ranks = _ranks(child.pid)
            for rank in ranks:
                Path(f"/proc/{rank.pid}/clear_refs").write_text("5")  # begin to measure: proc(5)
        peak = max((_resident(rank) for rank in ranks), default=0)
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
