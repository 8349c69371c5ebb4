"""Start-up time of a job, from `deepspeed` to the end of the first step, and where it goes.

    python benchmarks/startup.py [--models attune-small-64 ViT-B-32] [--rounds 3] [--json FILE]

Launches real jobs on one device, the data being checked before as the service does (`--unchecked`: by the job itself),
and stops each after its first step. The launcher's share is the time until the worker process exists; the others are
what the worker says in its `startup` event. Phases are medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generated_photos import write_captions, write_photos

from service.launchers.base import Run
from service.launchers.local import LocalLauncher, deepspeed_command, free_port
from trainer.events import Startup, read_events
from trainer.job_dir import JobDir, write_json_atomically
from trainer.resolve import resolve

_TIMEOUT_S = 900


def measure(model: str, folder: Path, *, table: Path, batch_size: int, checked: bool) -> dict[str, float]:
    """Seconds by phase of one job."""
    launcher = LocalLauncher(cpu_slots=1)
    job = JobDir(folder)
    folder.mkdir(parents=True)
    source = {"format": "csv", "path": str(table), "images_root": str(table.parent / "photos")}
    spec = {
        "model": model,
        "objective": {"name": "contrastive"},
        "data": {"train": source},
        "batch": {"global_size": batch_size},
        "schedule": {"epochs": None, "max_steps": 1000},
    }
    write_json_atomically(job.spec, resolve(spec=spec))
    if checked:
        command = [sys.executable, "-m", "trainer.preflight", "--job-dir", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run = Run(job_id="startup", attempt=1, job_dir=folder, devices=launcher.capacity().devices[:1])
    command = deepspeed_command(run, launcher.capacity(), free_port())
    started = time.time()
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command, env=launcher.environment(run), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            event = _first_step(job.attempt(1).events, process)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if event is None:
        ending = folder.with_suffix(".log").read_text(encoding="utf-8")[-3000:]
        sys.exit(f"the job ended before its first step:\n{ending}")
    total = event.time - started
    return {"launcher": total - sum(event.seconds.values()), **event.seconds, "total": total}


def _first_step(events: Path, process: subprocess.Popen[bytes]) -> Startup | None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        found = [event for event in read_events(events)[0] if isinstance(event, Startup)]
        if found or ended:
            return found[0] if found else None
        time.sleep(0.1)
    return None


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["attune-small-64", "ViT-B-32"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--unchecked", action="store_true", help="the job looks at its data itself")
    parser.add_argument("--json", type=Path, help="also write every round there")
    given = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {model: [] for model in given.models}
    with tempfile.TemporaryDirectory(prefix="startup-") as temporary:
        folder = Path(temporary)
        table = write_captions(folder / "captions.csv", write_photos(folder / "photos", count=given.images))
        for number in range(given.rounds):
            for model in given.models:
                place = folder / f"{model}-{number}"
                found = measure(model, place, table=table, batch_size=given.batch_size, checked=not given.unchecked)
                results[model].append(found)
                shutil.rmtree(place)
    print("| phase, s | " + " | ".join(given.models) + " |\n|---|" + "---|" * len(given.models))
    for phase in results[given.models[0]][0]:
        medians = (statistics.median(one[phase] for one in results[model]) for model in given.models)
        print(f"| {phase} | " + " | ".join(f"{seconds:.2f}" for seconds in medians) + " |")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
