"""Slurm's own commands, and what they answer, as Python values."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.launchers.base import EngineUnavailable, LaunchError

_TIMEOUT_S = 30.0
_DOWN = {"down", "drained", "draining", "fail", "failing", "error", "unknown", "future", "powered_down", "reboot"}

PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ALIVE = PENDING | {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
NODE_GONE = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"}


@dataclass(frozen=True)
class SlurmNode:
    """A node of the cluster that can run jobs."""

    name: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class SlurmJob:
    """What the controller says of a job."""

    id: int
    name: str
    state: str
    """Slurm's long name, such as `RUNNING`."""
    reason: str
    """Why it waits or ended, in Slurm's words."""


class SlurmCommands:
    """Runs `sbatch`, `squeue`, `scancel` and `sinfo`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def submit(self, script: str, arguments: Sequence[str]) -> int:
        """Hand a script to `sbatch`; the new job's id.

        Raises:
            LaunchError: Slurm refused it.
            EngineUnavailable: there is no answer.
        """
        done = self._run(["sbatch", "--parsable", *arguments], input=script, refusal=LaunchError)
        return int(done.strip().partition(";")[0])

    def nodes(self, partition: str | None) -> list[SlurmNode]:
        """Nodes that are up, by name.

        Raises:
            EngineUnavailable: the controller does not answer.
        """
        where = ["--partition", partition] if partition else []
        lines = self._run(["sinfo", "--noheader", "--Node", "--format=%N|%c|%G|%T", *where]).splitlines()
        found = {}
        for name, cpus, resources, state in (line.strip().split("|") for line in lines if line.strip()):
            # A trailing sign says that a node does not answer (*), sleeps (~), wakes (#), and the like.
            if state.rstrip("~#!%$@^-+").endswith("*") or state.strip("*~#!%$@^-+") in _DOWN:
                continue
            found[name] = SlurmNode(name, int(cpus), count_gpus(resources))
        return sorted(found.values(), key=lambda node: node.name)

    def jobs(self, prefix: str) -> list[SlurmJob]:
        """This user's jobs whose name begins with `prefix`, waiting, running, or ended within `MinJobAge`.

        Raises:
            EngineUnavailable: the controller does not answer.
        """
        text = self._run(["squeue", "--noheader", "--me", "--states=all", "--format=%A|%j|%T|%r"])
        rows = [line.strip().split("|", 3) for line in text.splitlines() if line.strip()]
        return [SlurmJob(int(id), name, state, reason) for id, name, state, reason in rows if name.startswith(prefix)]

    def cancel(self, id: int, *, signal: str | None = None) -> None:
        """End a job, or send a signal to the processes that `srun` started.

        Raises:
            EngineUnavailable: the controller does not answer.
        """
        self._run(["scancel", *([] if signal is None else ["--signal", signal]), str(id)], refusal=None)

    def _run(
        self, command: list[str], *, input: str | None = None, refusal: type[Exception] | None = EngineUnavailable
    ) -> str:
        """Output of a command. `refusal`: raised where it fails although the controller answers; None: nothing."""
        try:
            done = subprocess.run(
                command, input=input, capture_output=True, text=True, env=self._environment, timeout=_TIMEOUT_S
            )
        except FileNotFoundError:
            raise EngineUnavailable(f"{command[0]} is not installed on this machine; it is part of Slurm") from None
        except subprocess.TimeoutExpired:
            raise EngineUnavailable(f"{command[0]} gave no answer within {_TIMEOUT_S:.0f} s") from None
        if done.returncode == 0:
            return done.stdout
        complaint = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        if refusal is None:
            refusal = EngineUnavailable if _is_outage(complaint) else None
        elif _is_outage(complaint):
            refusal = EngineUnavailable
        if refusal is not None:
            raise refusal(f"{command[0]}: {complaint}")
        return done.stdout


def count_gpus(resources: str) -> int:
    """GPUs in a node's generic resources, such as `gpu:h200:8(S:0-1),nvme:1` or `(null)`."""
    return sum(int(number) for number in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", resources))


def is_installed(environment: Mapping[str, str]) -> bool:
    """Whether Slurm's commands are on the search path."""
    return any((Path(folder) / "sbatch").exists() for folder in environment.get("PATH", "").split(":") if folder)


def _is_outage(complaint: str) -> bool:
    """Whether a command failed because it reached no controller, as its text says."""
    return bool(
        re.search(r"(?i)unable to contact|connection refused|timed out|communication|not responding", complaint)
    )
