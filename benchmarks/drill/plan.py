"""What the drill submits: jobs that differ in what shall become of them, drawn with a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

Ending = Literal[
    "succeed", "bad_files", "bad_data", "non_finite_loss", "out_of_memory", "crash_once", "stall", "cancel", "pause"
]

FAILING = {"bad_files": "bad_data", "bad_data": "bad_data", "non_finite_loss": "non_finite_loss"}
"""The error code that a job with such an end must show."""
_SHARES: dict[Ending, float] = {
    "bad_files": 0.03, "bad_data": 0.03, "non_finite_loss": 0.03, "out_of_memory": 0.02, "crash_once": 0.03,
    "stall": 0.01, "cancel": 0.07, "pause": 0.06,
}  # fmt: skip
_URGENT_SHARE = 0.08
_TWO_DEVICES_SHARE = 0.06
REAL_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One job of the drill."""

    number: int
    end: Ending
    is_real: bool
    """Whether DeepSpeed trains it."""
    body: dict[str, Any] = field(repr=False)
    """Of the request that submits it."""
    steps: int
    twice: bool = False
    """Whether the client sends the request twice at once, as one that is too impatient does."""

    @property
    def key(self) -> str:
        """Its `Idempotency-Key`, and its name in the job's metadata."""
        return f"drill-{self.number}"


def draw_jobs(count: int, *, seed: int, data: Path, two_nodes: bool, step_s: float) -> Sequence[Planned]:
    """The jobs of one drill.

    Args:
        data: folder that `write_data` has filled.
        two_nodes: whether jobs of two devices take them of two machines.
        step_s: seconds of a short job's step.
    """
    random_state = random.Random(seed)
    ends: list[Ending] = [end for end, share in _SHARES.items() for _ in range(max(1, round(share * count)))]
    ends += ["succeed"] * (count - len(ends))
    random_state.shuffle(ends)
    may_be_real = [number for number, end in enumerate(ends) if end in ("succeed", "bad_files", "pause", "cancel")]
    real = set(random_state.sample(may_be_real, max(1, round(REAL_SHARE * count))))
    return [
        _draw(number, end, number in real, random_state, data=data, two_nodes=two_nodes, step_s=step_s)
        for number, end in enumerate(ends)
    ]


def _draw(
    number: int, end: Ending, is_real: bool, random_state: random.Random, *, data: Path, two_nodes: bool, step_s: float
) -> Planned:
    steps = random_state.randint(6, 10) if is_real else random_state.randint(10, 30)
    two = random_state.random() < _TWO_DEVICES_SHARE
    urgent = random_state.random() < _URGENT_SHARE
    script = {"end": end, "steps": steps, "step_s": step_s, "checkpoint_every": random_state.randint(2, 5),
              "preflight_s": 0.2, "real": is_real}  # fmt: skip
    scheduling: dict[str, Any] = {"priority": 90 if urgent else 50, "preemptible": not is_real}
    if end == "stall":
        scheduling["stall_timeout_s"] = 4.0
    spec = {
        "model": "attune-tiny-32",
        "objective": {"name": "class_prompts"},
        "data": {"train": str(data / ("broken" if is_real and end == "bad_files" else "good"))},
        "batch": {"global_size": 8},
        "schedule": {"epochs": None, "max_steps": steps},
        "parallel": {
            "devices": 1 if two_nodes or not two else 2, "nodes": 2 if two and two_nodes else 1, "precision": "fp32",
        },
        "checkpoint": {"every_steps": script["checkpoint_every"]},
        "evaluation": {"before_training": False, "every_steps": 1000},
        "scheduling": scheduling,
        "log_every_steps": 1,
    }  # fmt: skip
    metadata = {"drill": f"drill-{number}", "script": json.dumps(script)}
    body = {"spec": spec, "metadata": metadata, "seed": number}
    return Planned(number=number, end=end, is_real=is_real, body=body, steps=steps, twice=random_state.random() < 0.05)


def write_data(folder: Path) -> None:
    """An image folder of two classes that can be trained on, and one that cannot be read."""
    random_state = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for kind in ("good", "broken"):
            (folder / kind / name).mkdir(parents=True)
        for number in range(12):
            pixels = random_state.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "good" / name / f"{number}.png")
            (folder / "broken" / name / f"{number}.png").write_bytes(b"this is no picture")
