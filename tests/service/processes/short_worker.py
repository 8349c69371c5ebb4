"""Stands where DeepSpeed's launcher stands, and does to the job folder what a training run does to it.

`--job-dir DIR --attempt N`. The job's metadata say how it goes: `end` is `succeed` (the default), `fail` or `wait`;
a waiting worker goes on once the file `go` is in the job folder.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from trainer.events import CheckpointSaved, EventWriter, Exported, Message, Stage, Started, Step
from trainer.job_dir import AttemptDir, ExitRecord, JobDir, write_json_atomically

NUM_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job-dir", type=Path)
    parser.add_argument("--attempt", type=int)
    given = parser.parse_args()
    job = JobDir(given.job_dir)
    attempt = job.attempt(given.attempt)
    signal.signal(signal.SIGTERM, lambda *_: leave(attempt, "interrupted", "signal", 0))
    end = job.read_spec().metadata.get("end", "succeed")
    print(f"attempt {given.attempt} will {end}", flush=True)
    with EventWriter(attempt.events) as writer:
        begin(writer)
        while end == "wait" and not (job.path / "go").exists():
            time.sleep(0.02)
        if end == "fail":
            leave(attempt, "failed", "non_finite_loss", 1)
        train(writer)
        export(writer, job)
    leave(attempt, "succeeded", "completed", NUM_STEPS)


def begin(writer: EventWriter) -> None:
    writer.write(Stage(stage="loading"))
    writer.write(Message(message="naïve – ünïcode\nin two lines"))
    writer.write(
        Started(
            start_step=0,
            total_steps=NUM_STEPS,
            steps_per_epoch=NUM_STEPS,
            num_samples=10,
            world_size=1,
            micro_size=1,
            device="cpu",
            num_parameters=1,
            num_trainable=1,
            pids=[os.getpid()],
        )
    )


def train(writer: EventWriter) -> None:
    for step in range(1, NUM_STEPS + 1):
        left = {"eta_s": float(NUM_STEPS - step), "epoch": step / NUM_STEPS}
        writer.write(Step(step=step, loss=1 / step, lr=0.1, images_per_s=5.0, data_wait_share=0.0, **left))
        print(f"step {step}", flush=True)
        writer.write(CheckpointSaved(step=step, name=f"step-{step}-attempt-1", metrics={"validation/top1": step / 4}))


def export(writer: EventWriter, job: JobDir) -> None:
    job.export.mkdir()
    card = {"class_names": ["cat", "dog"], "templates": ["a photo of a {}."]}
    (job.export / "open_clip_config.json").write_text("{}")
    (job.export / "attune.json").write_text(json.dumps(card))
    name = f"step-{NUM_STEPS}-attempt-1"
    writer.write(Exported(checkpoint=name, weights="raw", task="clip", metrics={"validation/top1": 0.75}))


def leave(attempt: AttemptDir, status: str, reason: str, step: int) -> None:
    message = f"the run {status} at step {step}"
    record = ExitRecord(status=status, reason=reason, message=message, step=step, time=time.time())
    write_json_atomically(attempt.exit, record)
    sys.exit(0)


main()
