"""A job on two Ray nodes, one of which is killed at half time, beside the same job undisturbed: losses as a PNG.

    python benchmarks/lost_node.py [--steps 100] [--output lost_node.png] [--json lost_node.json]

Starts a Ray cluster on this machine (a head, two nodes of one CPU slot each), runs the job twice through the service's
own runner, store and Ray engine with DeepSpeed on every node, and kills everything of one node with -9 when half the
steps are logged. The job must finish on the node that is left. Needs the extra `ray`; takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from ray_cluster import RayCluster
from sklearn.datasets import load_digits

from service.jobs.places.rules import Places
from service.jobs.runner import JobRunner
from service.jobs.submission import submit
from service.launchers.ray.launcher import RayLauncher
from service.settings import Settings
from service.store.records import DEFAULT_PROJECT, JobRecord, JobStatus
from service.store.store import Store
from trainer.events import Event, read_events
from trainer.job_dir import JobDir

matplotlib.use("Agg")

_TIMEOUT_S = 900
_NODE = "2"


@dataclass
class Try:
    """One attempt, as its own events and the store tell it. Times are Unix seconds."""

    number: int
    nodes: int
    world_size: int
    micro_size: int
    accumulation: int
    cached: int
    start_step: int
    created_at: float
    first_step_at: float | None
    ended_at: float
    end_reason: str
    message: str
    startup_s: dict[str, float]
    losses: dict[int, float]

    @property
    def last_step(self) -> int:
        """The last one that it logged."""
        return max(self.losses, default=self.start_step)


@dataclass
class Story:
    """What became of one job."""

    status: str
    error: str | None
    top1: float | None
    tries: list[Try]
    killed_at: float | None = None
    killed_at_step: int | None = None
    losses: dict[int, float] = field(default_factory=dict)
    """By step; of a step that two attempts took, the later one's."""


def write_digits(folder: Path, *, held_out: int = 20) -> None:
    """scikit-learn's handwritten digits as image folders `train` and `held-out` of ten classes."""
    digits = load_digits()
    for label in range(10):
        for number, pixels in enumerate(digits.images[digits.target == label]):
            image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((32, 32)).convert("RGB")
            path = folder / ("held-out" if number < held_out else "train") / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def spec(data: Path, *, steps: int) -> dict[str, object]:
    """A job on two nodes that may go on with one device."""
    return {
        "model": "attune-tiny-32",
        "objective": {"name": "class_prompts"},
        "data": {"train": str(data / "train"), "validation": str(data / "held-out")},
        "batch": {"global_size": 64},
        "optim": {"lr": 1e-3, "clip_grad_norm": 1.0, "decay_vectors": False},
        "schedule": {"epochs": None, "max_steps": steps, "warmup_steps": steps // 10},
        "parallel": {"devices": 1, "nodes": 2, "zero_stage": 1, "precision": "fp32"},
        "checkpoint": {"every_steps": max(1, steps * 3 // 20)},  # so that some steps are lost
        "evaluation": {"before_training": False, "every_steps": steps},
        "scheduling": {"min_devices": 1},
        "log_every_steps": 1,
    }


def events_of(job: JobRecord) -> dict[int, list[Event]]:
    """What each attempt has told."""
    attempts = JobDir(Path(job.job_dir)).attempts()
    return {each.number: read_events(each.events)[0] if each.events.exists() else [] for each in attempts}


def wait_for_end(store: Store, job: JobRecord, *, kill_at: int | None, kill: Callable[[], None]) -> tuple[float, int]:
    """Wait for a job's end, and kill when step `kill_at` is logged; when that was, and the step."""
    deadline, killed, shown = time.monotonic() + _TIMEOUT_S, (0.0, 0), 0
    while not (now := store.jobs.get(job.id)).status.is_terminal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {job.id} is still {now.status}")
        steps = [event.step for events in events_of(job).values() for event in events if event.type == "step"]
        last = steps[-1] if steps else 0
        if kill_at is not None and last >= kill_at:
            killed, kill_at = (time.time(), last), None
            kill()
            print(f"{job.id} step {last}: node {_NODE} killed", flush=True)
        if last >= shown + 10 or last < shown:
            shown = last
            print(f"{job.id} step {last}", flush=True)
        time.sleep(0.02)
    return killed


def tell(store: Store, job: JobRecord, *, killed: tuple[float, int]) -> Story:
    """How it went."""
    job = store.jobs.get(job.id)
    told = events_of(job)
    tries = []
    for attempt in store.attempts.list(job.id):
        events = told.get(attempt.number, [])
        started = next(event for event in events if event.type == "started")
        steps = [event for event in events if event.type == "step"]
        tries.append(
            Try(
                number=attempt.number,
                nodes=len(attempt.placement),
                world_size=started.world_size,
                micro_size=started.micro_size,
                accumulation=started.accumulation,
                cached=started.cached,
                start_step=started.start_step,
                created_at=attempt.created_at,
                first_step_at=steps[0].time if steps else None,
                ended_at=attempt.ended_at or time.time(),
                end_reason=str(attempt.end_reason),
                message=attempt.end_message or "",
                startup_s=next((event.seconds for event in events if event.type == "startup"), {}),
                losses={event.step: event.loss for event in steps},
            )
        )
    top1 = [e.metrics["top1"] for events in told.values() for e in events if e.type == "evaluation"]
    losses = {step: loss for each in tries for step, loss in each.losses.items()}
    at, step = killed
    return Story(job.status, job.error_message, top1[-1] if top1 else None, tries, at or None, step or None, losses)


def compare(folder: Path, *, steps: int) -> dict[str, Story]:
    """The undisturbed and the disturbed run."""
    write_digits(folder / "digits")
    settings = Settings(data_dir=folder)
    store = Store(settings.effective_database_url)
    store.upgrade()
    cluster = RayCluster(folder)
    stories = {}
    try:
        cluster.start(num_nodes=2, cpus=1)
        launcher = RayLauncher(address=cluster.address, token_file=cluster.token_file)
        runner = JobRunner(store, launcher, data_dir=folder)
        runner.start()
        for name, kill_at in (("undisturbed", None), ("disturbed", steps // 2)):
            job = submit(
                store,
                jobs_dir=settings.jobs_dir,
                capacity=launcher.capacity(),
                weights_dir=None,
                places=Places.of(settings, store, project=DEFAULT_PROJECT),
                partial_spec=spec(folder / "digits", steps=steps),
            )
            killed = wait_for_end(store, job, kill_at=kill_at, kill=lambda: cluster.kill_node(_NODE))
            stories[name] = tell(store, job, killed=killed)
        runner.stop()
        launcher.close()
    finally:
        cluster.stop()
        store.close()
    return stories


def differences(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    """Relative difference of two runs' losses, by step that both have."""
    return {step: abs(other[step] - one[step]) / abs(one[step]) for step in sorted(one.keys() & other.keys())}


def figures(stories: dict[str, Story]) -> dict[str, object]:
    """What the documentation tells: differences, and where the seconds after the kill went."""
    calm, hit = stories["undisturbed"], stories["disturbed"]
    relative = differences(calm.losses, hit.losses)
    first, second = hit.tries[0], hit.tries[-1]
    before = [value for step, value in relative.items() if step <= second.start_step]
    after = [value for step, value in relative.items() if step > second.start_step]
    found: dict[str, object] = {
        "largest_relative_difference_before": max(before, default=None),
        "largest_relative_difference_after": max(after, default=None),
        "last_losses": {name: story.losses[max(story.losses)] for name, story in stories.items()},
        "held_out_top1": {name: story.top1 for name, story in stories.items()},
    }
    if hit.killed_at is not None and second.first_step_at is not None and second is not first:
        process_started = second.first_step_at - sum(second.startup_s.values())
        found |= {
            "killed_at_step": hit.killed_at_step,
            "steps_done_again": max(first.losses) - second.start_step,
            "seconds_from_kill_to_next_step": second.first_step_at - hit.killed_at,
            "of_these": {
                "until the attempt ended as lost": first.ended_at - hit.killed_at,
                "back-off, and planning on what is left": second.created_at - first.ended_at,
                "actor, agent and launcher": process_started - second.created_at,
                **second.startup_s,
            },
        }
    return found


def draw(stories: dict[str, Story], *, output: Path) -> None:
    """Both curves in one picture, their difference below."""
    from matplotlib import pyplot

    calm, hit = stories["undisturbed"], stories["disturbed"]
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(9, 6.5), sharex=True, height_ratios=(3, 1.3), layout="constrained"
    )
    top.plot(*_line(calm.losses), color="#b8b8b8", linewidth=5, label="undisturbed, two nodes")
    for each, (color, width) in zip(hit.tries, (("#1f77b4", 2.6), ("#d62728", 1.3), ("#2ca02c", 1.0)), strict=False):
        words = f"{each.nodes} {'node' if each.nodes == 1 else 'nodes'}"
        label = f"disturbed, attempt {each.number}: {words}, from step {each.start_step}"
        top.plot(*_line(each.losses), color=color, linewidth=width, label=label)
    if hit.killed_at_step is not None:
        for axes in (top, bottom):
            axes.axvline(hit.killed_at_step, color="black", linestyle=":", linewidth=1.2)
        text = f" one node killed with -9\n at step {hit.killed_at_step}"
        top.text(hit.killed_at_step, 0.97, text, transform=top.get_xaxis_transform(), va="top")
    for again in hit.tries[1:]:
        top.axvspan(again.start_step, hit.tries[again.number - 2].last_step, color="#ffe08a", label="steps taken twice")
    top.set(ylabel="training loss, nats", title="A job that loses one of its two Ray nodes at half time")
    top.legend(loc="lower left")
    relative = differences(calm.losses, hit.losses)
    least = 1e-9  # where both are the same to the last bit; a logarithm has no place for zero
    bottom.semilogy(list(relative), [max(value, least) for value in relative.values()], color="#d62728", marker=".")
    bottom.set(xlabel="optimizer step", ylabel="relative difference\n(1e-9: the same bits)")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=120)


def _line(losses: dict[int, float]) -> tuple[list[int], list[float]]:
    steps = sorted(losses)
    return steps, [losses[step] for step in steps]


def main() -> None:
    """Run both, print what happened, and draw it. Exits with 1 unless both jobs have succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("lost_node.png"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attune-lost-node-", ignore_cleanup_errors=True) as name:
        stories = compare(Path(name), steps=given.steps)
    told = {name: asdict(story) for name, story in stories.items()}
    if given.json:
        given.json.write_text(json.dumps(told | {"figures": figures(stories)}, indent=1))
    for name, story in stories.items():
        print(name, story.status, story.error or "")
        for each in story.tries:
            split = f"{each.world_size} x {each.micro_size} x {each.accumulation} (cached {each.cached})"
            print(f"  attempt {each.number}: {each.nodes} nodes, {split}, {each.end_reason}: {each.message}")
    draw(stories, output=given.output)
    print(json.dumps(figures(stories), indent=1))
    sys.exit(any(story.status != JobStatus.SUCCEEDED for story in stories.values()))


if __name__ == "__main__":
    main()
