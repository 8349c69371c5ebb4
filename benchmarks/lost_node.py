"""A job on two Ray nodes, one of which is killed at half time, beside the same job undisturbed: losses as a PNG.

    python benchmarks/lost_node.py [--steps 100] [--output lost_node.png] [--json lost_node.json]

Starts a Ray cluster on this machine (a head, two nodes of one CPU slot each), runs the job twice through the service's
own runner, store and Ray engine, and kills everything of one node with -9 when half the steps are logged. The job must
finish on the node that is left. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from ray_cluster import RayCluster
from sklearn.datasets import load_digits

from service.jobs.runner import JobRunner
from service.launchers.ray.launcher import RayLauncher
from service.store.records import JobRecord, JobStatus, new_id
from service.store.store import Store
from trainer.events import read_events
from trainer.job_dir import JobDir
from trainer.resolve import resolve

matplotlib.use("Agg")

_TIMEOUT_S = 900


def write_digits(folder: Path, *, per_class: int = 24) -> None:
    """scikit-learn's handwritten digits as an image folder of ten classes."""
    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:per_class]):
            image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((32, 32))
            image.convert("RGB").save(folder / str(label) / f"{number}.png")


def submit(store: Store, *, jobs_dir: Path, data: Path, steps: int) -> JobRecord:
    """A queued job on two nodes that may go on with one device."""
    spec = resolve(
        spec={
            "model": "attune-tiny-32",
            "objective": {"name": "class_prompts"},
            "data": {"train": str(data)},
            "batch": {"global_size": 16},
            "optim": {"lr": 1e-3},
            "schedule": {"epochs": None, "max_steps": steps},
            "parallel": {"devices": 1, "nodes": 2, "zero_stage": 1, "precision": "fp32"},
            "checkpoint": {"every_steps": 10},
            "evaluation": {"before_training": False, "every_steps": steps},
            "scheduling": {"min_devices": 1},
            "log_every_steps": 1,
        }
    )
    id = new_id("ftjob")
    record = JobRecord(
        id=id,
        status=JobStatus.VALIDATING_FILES,
        spec=spec.model_dump(mode="json"),
        model="attune-tiny-32",
        job_dir=str(jobs_dir / id),
        created_at=time.time(),
    )
    return store.jobs.create(record)


def losses(job: JobRecord) -> dict[int, float]:
    """Loss by step; of a step that two attempts took, the later one's."""
    found: dict[int, float] = {}
    for attempt in JobDir(Path(job.job_dir)).attempts():
        events, _ = read_events(attempt.events) if attempt.events.exists() else ([], 0)
        found |= {event.step: event.loss for event in events if event.type == "step"}
    return found


def run(store: Store, runner: JobRunner, job: JobRecord, *, kill_at: int | None, cluster: RayCluster) -> JobRecord:
    """Turn the runner until the job has ended; kill node 2 when step `kill_at` is logged."""
    deadline = time.monotonic() + _TIMEOUT_S
    told = 0
    while not (now := store.jobs.get(job.id)).status.is_terminal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {job.id} is still {now.status}")
        runner.tick()
        steps = max(losses(job), default=0)
        if kill_at is not None and steps >= kill_at:
            print(f"step {steps}: killing node 2", flush=True)
            cluster.kill_node("2")
            kill_at = None
        if steps >= told + 10:
            told = steps
            print(f"{job.id} step {steps}", flush=True)
        time.sleep(0.2)
    return now


def report(store: Store, job: JobRecord) -> dict[str, object]:
    """How it went, attempt by attempt."""
    attempts = [
        {
            "number": attempt.number,
            "nodes": len(attempt.placement),
            "end_reason": attempt.end_reason,
            "message": attempt.end_message,
            "start_step": attempt.start_step,
            "last_step": attempt.last_step,
            "seconds": round((attempt.ended_at or time.time()) - attempt.created_at, 1),
        }
        for attempt in store.attempts.list(job.id)
    ]
    return {"status": job.status, "error": job.error_message, "attempts": attempts, "losses": losses(job)}


def draw(undisturbed: dict[int, float], disturbed: dict[int, float], *, killed_at: int, output: Path) -> None:
    """Both curves in one picture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    axes.plot(*zip(*sorted(undisturbed.items()), strict=True), label="two nodes, undisturbed", linewidth=3, alpha=0.4)
    axes.plot(*zip(*sorted(disturbed.items()), strict=True), label="one node killed, finished on the other")
    axes.axvline(killed_at, color="gray", linestyle=":", label=f"kill -9 at step {killed_at}")
    axes.set(xlabel="step", ylabel="training loss", title="A node lost at half time")
    axes.legend()
    figure.savefig(output, dpi=120, bbox_inches="tight")


def main() -> None:
    """Run both, print what happened, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("lost_node.png"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attune-lost-node-") as name:
        results = compare(Path(name), steps=given.steps)
    draw(
        results["undisturbed"]["losses"],
        results["disturbed"]["losses"],
        killed_at=given.steps // 2,
        output=given.output,
    )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    for name, result in results.items():
        print(name, json.dumps({key: value for key, value in result.items() if key != "losses"}, indent=1))


def compare(folder: Path, *, steps: int) -> dict[str, dict[str, object]]:
    """The undisturbed and the disturbed run."""
    write_digits(folder / "digits")
    store = Store(f"sqlite:///{folder / 'attune.db'}")
    store.upgrade()
    cluster = RayCluster(folder)
    results = {}
    try:
        cluster.start(num_nodes=2, cpus=1)
        launcher = RayLauncher(address=cluster.address, token_file=cluster.token_file)
        runner = JobRunner(store, launcher, data_dir=folder)
        for name, kill_at in (("undisturbed", None), ("disturbed", steps // 2)):
            job = submit(store, jobs_dir=folder / "jobs", data=folder / "digits", steps=steps)
            results[name] = report(store, run(store, runner, job, kill_at=kill_at, cluster=cluster))
        launcher.close()
    finally:
        cluster.stop()
        store.close()
    return results


if __name__ == "__main__":
    main()
