"""Real launches of `deepspeed trainer/run.py` on the CPU."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

import trainer
from trainer import events
from trainer.data_sources import read_source
from trainer.job_dir import JobDir
from trainer.spec import ImageFolderSource

RUN = Path(trainer.__file__).with_name("run.py")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Launch:
    """One run of the launcher on a job folder, with the log beside it."""

    def __init__(self, job_dir, *arguments, ranks=2, accelerator="cpu"):
        self.job = JobDir(Path(job_dir))
        self.log = Path(f"{job_dir}.log")
        launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
        command = [sys.executable, *launcher, "--master_port", str(_free_port()), str(RUN), *arguments]
        self.process = subprocess.Popen(
            [*command, "--job-dir", str(job_dir)],
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"DS_ACCELERATOR": accelerator, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def wait(self, timeout=300):
        self.process.wait(timeout)
        self.wait_until(lambda: not self.members(), timeout)
        return self.exit_record()

    def members(self):
        """Every live process of this launch: all share its session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found

    def workers(self):
        return [p for p in self.members() if "--local_rank" in " ".join(p.cmdline()) and "launch" not in p.cmdline()[2]]

    def exit_record(self):
        attempts = self.job.attempts()
        return attempts[-1].read_exit() if attempts else None

    def steps(self, attempt=-1):
        """Loss by step of one attempt."""
        attempts = self.job.attempts()
        if not attempts:
            return {}
        read, _ = events.read_events(attempts[attempt].events)
        return {event.step: event.loss for event in read if event.type == "step"}

    def wait_until(self, condition, timeout=300):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"timed out; the log ends:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def wait_for_step(self, step):
        def reached():
            if self.process.poll() is not None:
                pytest.fail(f"ended before step {step}:\n{self.log.read_text()[-3000:]}")
            return max(self.steps(), default=0) >= step

        self.wait_until(reached)

    def stop(self):
        for process in self.members():
            process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def digits_manifest(digits):
    """The training digits, listed and checked."""
    source = ImageFolderSource(path=str(digits / "train"))
    return read_source(source, on_bad_sample="fail", exif="ignore", num_threads=1)[0]


@pytest.fixture
def digit_images():
    """Normalised pixels (4, 3, 32, 32) of noise."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def launch(tmp_path):
    """Start launches; whatever is left of them dies with the test."""
    started = []

    def start(name, *arguments, **options):
        started.append(Launch(tmp_path / name, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def digits_spec(digits, tmp_path):
    """A short FLYP job on handwritten digits, two ranks, as a YAML file."""
    path = tmp_path / "digits.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "recipe": "flyp",
                "model": "attune-tiny-32",
                "data": {
                    "train": str(digits / "train"),
                    "validation": str(digits / "heldout"),
                    "templates": ["a photo of the digit {}.", "the number {}."],
                },
                "batch": {"global_size": 40},
                "optim": {"lr": 5e-4, "ema_decay": 0.9, "clip_grad_norm": 1.0, "layer_decay": 0.9},
                "schedule": {"epochs": None, "max_steps": 10, "warmup_steps": 2},
                "checkpoint": {"every_steps": 5, "keep_latest": 3},
                "evaluation": {"before_training": False, "every_steps": 10},
                "parallel": {"devices": 2, "precision": "fp32"},
                "log_every_steps": 1,
            }
        )
    )
    return path


@pytest.fixture
def free_port():
    """A TCP port that nothing listens on."""
    return _free_port()


@pytest.fixture
def small_disk():
    """Mount a file system of a few MiB on a folder; needs root."""
    mounted = []

    def mount(folder, *, mebibytes):
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this machine does not let root mount a file system")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
