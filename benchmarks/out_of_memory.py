"""Jobs that run out of memory for real, beside the same job undisturbed: what is decided, and how the losses differ.

    python benchmarks/out_of_memory.py [--how address-space|kernel] [--steps 4] [--samples 128] [--json figures.json]

Runs a contrastive job through the service's own runner, store and local engine, with DeepSpeed on one CPU slot: once
undisturbed, which measures what it takes; once with less memory than that and `batch.micro_size: auto`; once with the
same and a fixed micro-batch, which must be refused. `address-space` limits by `ulimit -v`, so that an allocation
fails; `kernel` by a control group (version 1, root), so that the kernel kills the rank with signal 9.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from service.jobs.places.rules import Places
from service.jobs.runner import JobRunner
from service.jobs.submission import submit
from service.launchers.base import Capacity, Run
from service.launchers.local import LocalLauncher, deepspeed_command
from service.settings import Settings
from service.store.records import DEFAULT_PROJECT, JobRecord, JobStatus
from service.store.store import Store
from trainer.events import read_events
from trainer.job_dir import JobDir

_GROUPS = Path("/sys/fs/cgroup/memory")
_TIMEOUT_S = 1800


@dataclass
class Attempt:
    """One attempt, as the store and its own events tell it."""

    end_reason: str
    message: str
    micro_size: int | None
    accumulation: int | None
    cached: int | None


@dataclass
class Story:
    """What became of one job."""

    status: str
    error: str | None
    attempts: list[Attempt]
    losses: dict[int, float]
    peak_mib: float
    """Address space of a rank, or what the control group held beside files."""


def write_images(folder: Path, *, count: int) -> Path:
    """Noise in ten classes that differ in brightness."""
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 80, (64, 64, 3)) + number % 10 * 16
        path = folder / f"class {number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def spec(images: Path, *, steps: int, samples: int, micro_size: int | str) -> dict[str, Any]:
    """A contrastive job whose memory is mostly activations."""
    return {
        "recipe": "flyp",
        "model": "attune-small-64",
        "data": {"train": str(images), "templates": ["a photo of {}."]},
        "batch": {"global_size": samples, "micro_size": micro_size},
        "optim": {"lr": 1e-3},
        "schedule": {"epochs": None, "max_steps": steps, "warmup_steps": 0},
        "parallel": {"devices": 1, "zero_stage": 1, "precision": "fp32"},
        "checkpoint": {"every_steps": steps},
        "evaluation": {"before_training": False},
        "log_every_steps": 1,
    }


class Limit:
    """Memory that the processes of a run may take; none until `mib` is set."""

    def __init__(self, how: str, group: Path | None) -> None:
        self.how = how
        self.mib: float | None = None
        self._group = group

    def command(self, run: Run, capacity: Capacity, port: int) -> Sequence[str]:
        """DeepSpeed's launcher under the limit."""
        before = ""
        if self._group is not None:
            limit = -1 if self.mib is None else int(self.mib * 2**20)
            (self._group / "memory.limit_in_bytes").write_text(str(limit))
            before = f"echo $$ > {self._group}/cgroup.procs; "
        elif self.mib is not None:
            before = f"ulimit -v {int(self.mib * 1024)}; "
        return ["bash", "-c", f'{before}exec "$@"', "bash", *deepspeed_command(run, capacity, port)]

    def peak_mib(self, pids: Sequence[int], *, before: float) -> float:
        """The larger of `before` and what is taken now."""
        if self._group is not None:
            lines = (self._group / "memory.stat").read_text().splitlines()
            return max(before, next(int(line.split()[1]) for line in lines if line.startswith("total_rss ")) / 2**20)
        taken = [before]
        for pid in pids:
            try:
                taken.append(psutil.Process(pid).memory_info().vms / 2**20)
            except psutil.NoSuchProcess:
                continue
        return max(taken)


@contextmanager
def control_group(how: str) -> Iterator[Path | None]:
    """A control group of version 1 that ends with its processes, where the kernel is to limit."""
    if how != "kernel":
        yield None
        return
    group = _GROUPS / f"attune-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        yield group
    finally:
        time.sleep(2)
        group.rmdir()


def run_job(store: Store, settings: Settings, runner: LocalLauncher, limit: Limit, content: dict[str, Any]) -> Story:
    """Submit a job and wait for its end."""
    job = submit(
        store,
        jobs_dir=settings.jobs_dir,
        capacity=runner.capacity(),
        weights_dir=None,
        places=Places.of(settings, store, project=DEFAULT_PROJECT),
        partial_spec=content,
    )
    deadline, peak = time.monotonic() + _TIMEOUT_S, 0.0
    while not (now := store.jobs.get(job.id)).status.is_terminal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {job.id} is still {now.status}")
        attempt = store.attempts.latest(job.id)
        peak = limit.peak_mib(attempt.worker_pids if attempt else (), before=peak)
        time.sleep(0.1)
    return tell(store, now, peak_mib=peak)


def tell(store: Store, job: JobRecord, *, peak_mib: float) -> Story:
    """How it went."""
    attempts, losses = [], {}
    for attempt in store.attempts.list(job.id):
        events = read_events(JobDir(Path(job.job_dir)).attempt(attempt.number).events)[0]
        started = next((event for event in events if event.type == "started"), None)
        split = (started.micro_size, started.accumulation, started.cached) if started else (None, None, None)
        attempts.append(Attempt(str(attempt.end_reason), attempt.end_message or "", *split))
        losses |= {event.step: event.loss for event in events if event.type == "step"}
    return Story(str(job.status), job.error_message, attempts, losses, peak_mib)


def compare(folder: Path, given: argparse.Namespace, *, report: Callable[[str, Story], None]) -> dict[str, Story]:
    """The three jobs."""
    images = write_images(folder / "images", count=given.samples * 2)
    settings = Settings(data_dir=folder)
    store = Store(settings.effective_database_url)
    store.upgrade()
    stories: dict[str, Story] = {}
    with control_group(given.how) as group:
        limit = Limit(given.how, group)
        launcher = LocalLauncher(cpu_slots=1, worker_command=limit.command)
        runner = JobRunner(store, launcher, data_dir=folder)
        runner.start()
        for name, micro_size in (("undisturbed", "auto"), ("auto", "auto"), ("fixed", given.samples)):
            content = spec(images, steps=given.steps, samples=given.samples, micro_size=micro_size)
            stories[name] = run_job(store, settings, launcher, limit, content)
            report(name, stories[name])
            limit.mib = limit.mib or stories[name].peak_mib - given.less_mib
        runner.stop()
    store.close()
    return stories


def main() -> None:
    """Run all, print what happened. Exits with 1 unless the limited job succeeds and the fixed one is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", choices=("address-space", "kernel"), default="address-space")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--less-mib", type=float, default=250.0, help="how much less than the undisturbed job takes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    def report(name: str, story: Story) -> None:
        print(f"{name}: {story.status}, peak {story.peak_mib:.0f} MiB. {story.error or ''}", flush=True)
        for number, each in enumerate(story.attempts, start=1):
            split = f"{each.micro_size} x {each.accumulation} (cached {each.cached})"
            print(f"  attempt {number}: {split}, {each.end_reason}: {each.message}", flush=True)

    with tempfile.TemporaryDirectory(prefix="attune-memory-", ignore_cleanup_errors=True) as name:
        stories = compare(Path(name), given, report=report)
    calm, limited, fixed = stories["undisturbed"], stories["auto"], stories["fixed"]
    for step, loss in sorted(calm.losses.items()):
        other = limited.losses.get(step, float("nan"))
        print(f"step {step}: {loss:.7f} {other:.7f}, relative difference {abs(other - loss) / abs(loss):.1e}")
    if given.json:
        given.json.write_text(json.dumps({name: asdict(story) for name, story in stories.items()}, indent=1))
    sys.exit(limited.status != JobStatus.SUCCEEDED or fixed.status != JobStatus.FAILED or len(limited.attempts) < 2)


if __name__ == "__main__":
    main()
