"""A stand-in for training: a launcher process with rank processes that keep the contract of the job folder.

    python worker_program.py JOB_DIR ATTEMPT DEVICES [--resume]

JOB_DIR/script.json says what it does; see `Script`.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from pydantic import BaseModel

from trainer import events
from trainer.job_dir import CheckpointName, ExitRecord, JobDir, write_json_atomically


class Script(BaseModel):
    steps: int = 4
    step_s: float = 0.02
    checkpoint_every: int = 2
    crash_at: dict[int, int] = {}
    """Attempt: the step after which rank 0 kills itself."""
    always_crash_at: int | None = None
    fail: str | None = None
    """Ends with this reason in place of training."""
    interrupt_at: dict[int, int] = {}
    """Attempt: the step after which rank 0 ends as if it had been signalled."""
    on_sigterm: str = "save"
    """`save` a checkpoint, or `ignore` it."""
    save_s: float = 0.0
    """How long saving on a signal takes."""
    linger_s: float = 0.0
    """How long rank 0 stays after exit.json."""
    export: bool = True
    micro_size: int = 1
    """Samples a device and forward pass, unless the attempt decides otherwise."""
    mebibytes_a_sample: int = 0
    """Memory that a forward pass takes for each sample of it."""
    mebibytes: int | None = None
    """Memory that rank 0 may take for a forward pass; what is more fails as it does on a full machine."""
    last_words: dict[int, str] = {}
    """Attempt: what rank 0 prints before it begins."""


def launch(job_dir: Path, attempt: int, num_ranks: int, *, resume: bool) -> int:
    """What `deepspeed` is: starts the ranks and waits for them."""
    command = [sys.executable, __file__, str(job_dir), str(attempt), str(num_ranks), *(["--resume"] if resume else [])]
    environments = [{**os.environ, "RANK": str(rank)} for rank in range(num_ranks)]
    ranks = [subprocess.Popen(command, env=environment) for environment in environments]
    write_json_atomically(job_dir / f"ranks-{attempt}.json", {"pids": [rank.pid for rank in ranks]})
    return max(rank.wait() for rank in ranks)


class RankZero:
    def __init__(self, job_dir: Path, attempt: int, *, resume: bool) -> None:
        self.job = JobDir(job_dir)
        self.paths = self.job.attempt(attempt)
        self.attempt = attempt
        self.script = Script.model_validate_json((job_dir / "script.json").read_bytes())
        published = self.job.published_checkpoints()
        self.start_step = published[-1].step if resume and published else 0
        self.step = self.start_step
        self.stop = False
        self.micro_size = self.paths.read_overrides().get("micro_size", self.script.micro_size)
        if self.script.mebibytes is not None:
            limit = psutil.Process().memory_info().vms + self.script.mebibytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.writer = events.EventWriter(self.paths.events)
        signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_sigterm(self, number: int, frame: object) -> None:
        self.stop = self.script.on_sigterm == "save"

    def run(self, pids: list[int]) -> None:
        if self.script.fail:
            self.end("failed", self.script.fail)
            return
        self.writer.write(
            events.Started(
                start_step=self.start_step,
                total_steps=self.script.steps,
                steps_per_epoch=self.script.steps,
                num_samples=64,
                world_size=len(pids),
                micro_size=self.micro_size,
                device="cpu",
                num_parameters=1,
                num_trainable=1,
                pids=pids,
            )
        )
        print(self.script.last_words.get(self.attempt, ""), file=sys.stderr, flush=True)
        while self.step < self.script.steps and not self.stop:
            try:
                self.train_one_step()
            except MemoryError:
                self.end("failed", "out_of_memory")
                return
            if self.step == self.script.interrupt_at.get(self.attempt):
                self.stop = True
        if self.step < self.script.steps:
            time.sleep(self.script.save_s)
            self.save()
            self.end("interrupted", "signal")
            return
        if self.script.export:
            self.export()
        self.end("succeeded", "completed")

    def train_one_step(self) -> None:
        bytes(self.micro_size * self.script.mebibytes_a_sample * 2**20)
        time.sleep(self.script.step_s)
        self.step += 1
        left = (self.script.steps - self.step) * self.script.step_s
        self.writer.write(
            events.Step(
                step=self.step,
                epoch=0.1,
                loss=1 / self.step,
                lr=1e-3,
                images_per_s=50.0,
                data_wait_share=0.25,
                eta_s=left,
            )
        )
        if self.step % self.script.checkpoint_every == 0:
            self.save()
        if self.step in (self.script.crash_at.get(self.attempt), self.script.always_crash_at):
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self) -> None:
        name = CheckpointName(self.step, self.attempt)
        self.job.checkpoint(name).mkdir(parents=True, exist_ok=True)
        self.writer.write(events.CheckpointSaved(step=self.step, name=str(name), metrics={"validation/top1": 0.5}))

    def export(self) -> None:
        card = {"class_names": ["cat", "dog"], "templates": ["a {}"]}
        write_json_atomically(self.job.export / "attune.json", card)
        name = str(self.job.published_checkpoints()[-1])
        self.writer.write(
            events.Exported(checkpoint=name, weights="raw", task="clip", metrics={"validation/top1": 0.9})
        )

    def end(self, status: str, reason: str) -> None:
        ended = {"status": status, "reason": reason, "message": f"it was {reason}", "step": self.step}
        write_json_atomically(self.paths.exit, ExitRecord.model_validate({**ended, "time": time.time()}))
        time.sleep(self.script.linger_s)


def main() -> int:
    job_dir, attempt, num_ranks, resume = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "--resume" in sys.argv
    if "RANK" not in os.environ:
        return launch(job_dir, attempt, num_ranks, resume=resume)
    roster = job_dir / f"ranks-{attempt}.json"
    if os.environ["RANK"] == "0":
        zero = RankZero(job_dir, attempt, resume=resume)
        while not roster.exists():
            time.sleep(0.005)
        zero.run(JobPids.model_validate_json(roster.read_bytes()).pids)
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    paths = JobDir(job_dir).attempt(attempt)
    while not paths.exit.exists():
        time.sleep(0.02)
    return 0


class JobPids(BaseModel):
    pids: list[int]


if __name__ == "__main__":
    sys.exit(main())
