"""The embedded engine: runs attempts with DeepSpeed's launcher on this machine.

JOB/attempts/0001/ gets `launch.json` (the launcher's identity) and `worker.log` beside the worker's own files.
The launcher's exit code means nothing and is never read; see `service.jobs.outcome`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trainer
from service.launchers.base import Capacity, Run, RunState, Submitted
from service.launchers.devices import find_devices
from service.launchers.processes import ProcessGroups, find_workers, send, tags
from trainer.job_dir import AttemptDir, JobDir

WorkerCommand = Callable[[Run, Capacity, int], Sequence[str]]
"""Makes the argument list of a run from the run, the engine's capacity and a free port."""


class LocalLauncher:
    """Runs attempts on this machine, each in a session of its own."""

    name = "local"
    shared = False

    def __init__(
        self,
        *,
        cpu_slots: int | None = None,
        weights_dir: Path | None = None,
        worker_command: WorkerCommand | None = None,
        environment: Mapping[str, str] = os.environ,
        niceness: int = 0,
    ) -> None:
        """`cpu_slots`: devices on a machine without GPUs (None: its cores). `worker_command`: what to run in
        place of DeepSpeed. `environment`: what workers inherit. `niceness`: how much they give way to this process."""
        self._cores = len(os.sched_getaffinity(0))
        self._environment = environment
        self._capacity = find_devices(
            cpu_slots=cpu_slots or self._cores, visible=environment.get("CUDA_VISIBLE_DEVICES")
        )
        self._weights_dir = weights_dir
        self._worker_command = worker_command or deepspeed_command
        self._groups = ProcessGroups(niceness=niceness)

    def capacity(self) -> Capacity:
        """The devices there are, taken or not."""
        return self._capacity

    def submit(self, run: Run) -> Submitted:
        """Start a run; its leader is the launcher process.

        Raises:
            LaunchError: the launcher cannot be started.
        """
        paths = _paths(run)
        leader = self._groups.start(
            self._worker_command(run, self._capacity, free_port()),
            tag=_tag(run),
            environment=self.environment(run),
            log=paths.log,
            record=_record(paths),
        )
        return Submitted(leader)

    def poll(self, run: Run) -> RunState:
        """Look at a run, also one that another service process started."""
        return self._groups.look(
            _tag(run), record=_record(_paths(run)), workers=run.worker_pids, workers_seen_at=run.workers_seen_at
        )

    def signal(self, run: Run, number: signal.Signals) -> None:
        """SIGKILL goes to every process of the run. Others go to the ranks alone, once these are known: DeepSpeed's
        own launcher would pass the signal on a second time, and kill a rank that still saves after 30 s."""
        ranks = find_workers(run.worker_pids, run.workers_seen_at)
        if number != signal.SIGKILL and ranks:
            for process in ranks:
                send(process, number)
            return
        self._groups.signal(_tag(run), number, workers=run.worker_pids, workers_seen_at=run.workers_seen_at)

    def list(self) -> Sequence[str]:
        """`JOB/ATTEMPT` of every run on this machine that has a living process, whoever started it."""
        return sorted({tag for _, _, tag in tags()})

    def close(self) -> None:
        """Nothing is held open."""

    def environment(self, run: Run) -> dict[str, str]:
        """The environment of a run's processes."""
        environment = {name: value for name, value in self._environment.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment["OMP_NUM_THREADS"] = str(max(1, self._cores // len(run.devices)))
        environment["PYTHONUNBUFFERED"] = "1"
        if self._capacity.kind == "cpu":
            environment["DS_ACCELERATOR"] = "cpu"
        else:
            # NVML counts GPUs in bus order; CUDA does so only if told.
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        if self._weights_dir is not None:
            environment["ATTUNE_WEIGHTS_DIR"] = str(self._weights_dir)
        return environment


def deepspeed_command(run: Run, capacity: Capacity, port: int) -> list[str]:
    """DeepSpeed's launcher with `trainer/run.py`, as an argument list."""
    resume = ["--resume"] if run.resume else []
    arguments = ["--job-dir", str(run.job_dir), "--attempt", str(run.attempt), *resume]
    return [*launcher_command(run.devices, capacity, port), trainer_script("run.py"), *arguments]


def launcher_command(devices: Sequence[int], capacity: Capacity, port: int) -> list[str]:
    """DeepSpeed's launcher on some of this machine's devices; a script and its arguments follow."""
    if capacity.kind == "gpu":
        where = ["--include", "localhost:" + ",".join(str(device) for device in devices)]
    else:
        where = ["--num_accelerators", str(len(devices))]
    # A /job/hostfile that some cluster images carry would send the run to other machines.
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", os.devnull]
    return [*launcher, *where, "--master_port", str(port)]


def trainer_script(name: str) -> str:
    """Path of one of the trainer's entry points."""
    return str(Path(trainer.__file__).parent / name)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tag(run: Run) -> str:
    return f"{run.job_id}/{run.attempt}"


def _paths(run: Run) -> AttemptDir:
    return JobDir(run.job_dir).attempt(run.attempt)


def _record(paths: AttemptDir) -> Path:
    return paths.path / "launch.json"
