"""The engine of a Slurm cluster: one `sbatch` job a run, with one node agent a node; see docs/distributed.md.

Attune's own planner decides which of its jobs are submitted, within the devices that `sinfo` tells of; Slurm decides
when and where they run, beside everybody else's. A submitted run that waits in Slurm's queue counts as started, and
the node names in its placement are only the plan's: where it really is, `nodes/*.json` in its folder tells.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from service.launchers.base import (
    PASSING,
    Capacity,
    EngineRefused,
    EngineUnavailable,
    LaunchError,
    LostReason,
    NodeShare,
    Run,
    RunState,
    Submitted,
)
from service.launchers.gang import GangCommand, GangFiles, forwarded, issue_token, part_of, to_lost_reason
from service.launchers.slurm_cli import ALIVE, NODE_GONE, PENDING, SlurmCommands, SlurmJob, is_installed
from trainer.fence import TOKEN_VARIABLE

_PREFIX = "attune/"
_SNAPSHOT_AGE_S = 1.0
_CAPACITY_AGE_S = 5.0
_NEEDED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_", "TZ", "SLURM_CONF", "SLURM_JWT")


class SlurmLauncher:
    """Runs attempts as Slurm jobs of the user that the service runs as."""

    name = "slurm"
    shared = True

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        extra_arguments: Sequence[str] = (),
        slots_per_node: int | None = None,
        python: str = sys.executable,
        weights_dir: Path | None = None,
        command: GangCommand | None = None,
        environment: Mapping[str, str] = os.environ,
        worker_environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Find Slurm's commands.

        Args:
            extra_arguments: for `sbatch`, after all others.
            slots_per_node: CPU slots to use of each node where no node has a GPU; None: its CPUs.
            python: the interpreter on the nodes, with this package.
            command: what nodes run in place of DeepSpeed's launcher.
            worker_environment: variables that the workers get beside those of `gang.forwarded`.

        Raises:
            EngineRefused: they are not there.
        """
        if not is_installed(environment):
            raise EngineRefused("ATTUNE_ENGINE is slurm, but sbatch is not on the PATH of this service")
        # What a submitter's environment holds reaches the job: nothing of the service's own.
        chosen = {name: value for name, value in environment.items() if name.startswith(_NEEDED)}
        self._environment = chosen | forwarded(environment, weights_dir=weights_dir) | dict(worker_environment)
        self._commands = SlurmCommands(self._environment)
        self._partition = partition
        self._arguments = [
            *(["--partition", partition] if partition else []),
            *(["--account", account] if account else []),
            *extra_arguments,
        ]
        self._slots_per_node = slots_per_node
        self._python = python
        self._command = command
        self._capacity = Capacity("gpu", (), may_grow=True, problem="not asked yet")
        self._capacity_at = float("-inf")
        self._jobs: dict[str, SlurmJob] = {}
        self._jobs_at = float("-inf")
        self._looking = threading.RLock()

    def capacity(self) -> Capacity:
        """The devices of the partition's nodes that are up, whoever uses them. Some seconds old at most."""
        with self._looking:
            if time.monotonic() > self._capacity_at + _CAPACITY_AGE_S:
                self._capacity = self._look_at_cluster()
                self._capacity_at = time.monotonic()
            return self._capacity

    def submit(self, run: Run) -> Submitted:
        """Hand a run to Slurm, which starts it when it has room.

        Raises:
            LaunchError: Slurm refuses it, or the attempt's folder cannot be written.
            EngineUnavailable: Slurm does not answer.
        """
        kind = self._kind()
        try:
            token = issue_token(run)
        except OSError as error:
            if error.errno in PASSING:
                raise
            raise LaunchError(f"cannot write to {run.job_dir}: {error.strerror}") from error
        commands = SlurmCommands(self._environment | {TOKEN_VARIABLE: token})
        id = commands.submit(self._script(run, kind=kind, token=token), self._sbatch_arguments(run, kind=kind))
        with self._looking:
            self._jobs_at = float("-inf")
        return Submitted(engine_ref={"job": id})

    def poll(self, run: Run) -> RunState:
        """Look at a run, whichever replica submitted it. While Slurm does not answer, a run that had begun is taken to
        go on, as it does.

        Raises:
            EngineUnavailable: Slurm does not answer, and the run is not known to have been submitted.
        """
        files = GangFiles.of(run)
        begun = run.engine_ref is not None or files.any_claimed
        try:
            job = self._find(run)
        except EngineUnavailable:
            if not begun:
                raise
            return _gone(None) if files.all_ended else _ALIVE
        if job is None:
            return self._unknown(files) if begun else _NEVER
        if reason := files.given_up:
            return self._given_up(job, reason)
        if job.state in PENDING and files.any_claimed and self._is_pending_again(run):
            self._commands.cancel(job.id)
            files.give_up("node_lost")
            return _gone("node_lost")
        if job.state in ALIVE:
            return _ALIVE
        if files.all_ended and job.state not in NODE_GONE:
            return _gone(None)
        # Whatever Slurm has lost sight of must not go on: a step's processes may outlive their node's daemon.
        lost: LostReason | None = "node_lost" if job.state in NODE_GONE or _was_requeued(job, files) else None
        files.give_up(lost or f"slurm: {job.state}")
        return _gone(lost)

    def signal(self, run: Run, number: signal.Signals) -> None:
        """SIGKILL ends the Slurm job; others reach the ranks, through their node agents. A run that still
        waits in Slurm's queue is taken out of it.

        Raises:
            EngineUnavailable: Slurm does not answer. After SIGKILL the processes end all the same.
        """
        files = GangFiles.of(run)
        if number == signal.SIGKILL:
            files.give_up("killed")
        else:
            files.ask_to_stop()
        job = self._find(run)
        if job is None or job.state not in ALIVE:
            return
        if number == signal.SIGKILL:
            self._commands.cancel(job.id, signal="KILL")
        if number == signal.SIGKILL or job.state in PENDING:
            self._commands.cancel(job.id)

    def close(self) -> None:
        """Nothing is held open."""

    def _given_up(self, job: SlurmJob, reason: str) -> RunState:
        lost = to_lost_reason(reason)
        if job.state in ALIVE:
            self._commands.cancel(job.id)
            # Slurm gives its devices to nobody before it is gone; only what was killed is waited for.
            return _gone(lost) if lost else _ALIVE
        return _gone(lost)

    def _unknown(self, files: GangFiles) -> RunState:
        """A run that Slurm has forgotten: ended long ago, or lost with the controller's state."""
        if files.all_ended:
            return _gone(None)
        files.give_up("engine_lost")
        return _gone(to_lost_reason(files.given_up))

    def _find(self, run: Run) -> SlurmJob | None:
        """The run's job. One that another replica has just submitted may not be in a snapshot that is a second old."""
        name = f"{_PREFIX}{run.job_id}/{run.attempt}"
        if name not in self._snapshot():
            with self._looking:
                self._jobs_at = float("-inf")
        return self._snapshot().get(name)

    def _is_pending_again(self, run: Run) -> bool:
        """Whether Slurm has put a run that had begun back into its queue. Asked afresh: it may just have begun."""
        with self._looking:
            self._jobs_at = float("-inf")
        job = self._find(run)
        return job is not None and job.state in PENDING

    def _snapshot(self) -> dict[str, SlurmJob]:
        with self._looking:
            if time.monotonic() > self._jobs_at + _SNAPSHOT_AGE_S:
                jobs = sorted(self._commands.jobs(_PREFIX), key=lambda job: job.id)
                self._jobs, self._jobs_at = {job.name: job for job in jobs}, time.monotonic()
            return self._jobs

    def _sbatch_arguments(self, run: Run, *, kind: Literal["gpu", "cpu"]) -> list[str]:
        devices = max(len(share.devices) for share in run.placement)
        return [
            f"--job-name={_PREFIX}{run.job_id}/{run.attempt}",
            f"--nodes={len(run.placement)}",
            "--ntasks-per-node=1",
            f"--gres=gpu:{devices}" if kind == "gpu" else f"--cpus-per-task={devices}",
            "--no-requeue",
            "--open-mode=append",
            f"--output={GangFiles.of(run).path / 'slurm.log'}",
            f"--chdir={run.job_dir}",
            *self._arguments,
        ]

    def _script(self, run: Run, *, kind: Literal["gpu", "cpu"], token: str) -> str:
        """One task a node. A node that fails must not take the others' last words with it: their agents end them."""
        part = part_of(run, node_rank=0, kind=kind, token=token, command=self._command)
        srun = ["srun", "--kill-on-bad-exit=0", "--wait=0", "--ntasks-per-node=1"]
        cpus = ["--cpus-per-task", str(len(run.placement[0].devices))] if kind == "cpu" else []
        return f"#!/bin/sh\nexec {shlex.join([*srun, *cpus, self._python, *part.arguments(numbered=False)])}\n"

    def _kind(self) -> Literal["gpu", "cpu"]:
        capacity = self.capacity()
        if capacity.problem is not None:
            raise EngineUnavailable(capacity.problem)
        return capacity.kind

    def _look_at_cluster(self) -> Capacity:
        try:
            nodes = self._commands.nodes(self._partition)
            waiting = sum(job.state in PENDING for job in self._snapshot().values())
        except EngineUnavailable as error:
            return Capacity(self._capacity.kind, (), may_grow=True, problem=str(error))
        kind: Literal["gpu", "cpu"] = "gpu" if any(node.gpus for node in nodes) else "cpu"
        most = self._slots_per_node
        counts = {node.name: node.gpus if kind == "gpu" else min(node.cpus, most or node.cpus) for node in nodes}
        note = f"{waiting} {'run waits' if waiting == 1 else 'runs wait'} in Slurm's queue" if waiting else ""
        shares = tuple(NodeShare(name, tuple(range(count))) for name, count in counts.items() if count)
        return Capacity(kind, shares, may_grow=True, note=note)

    def list(self) -> Sequence[str]:
        """`JOB/ATTEMPT` of every run in Slurm's queue.

        Raises:
            EngineUnavailable: Slurm does not answer.
        """
        return sorted(name.removeprefix(_PREFIX) for name, job in self._snapshot().items() if job.state in ALIVE)


_ALIVE = RunState(None, leader_alive=True, alive=True, started=True)
_NEVER = RunState(None, leader_alive=False, alive=False, started=False)


def _gone(lost: LostReason | None) -> RunState:
    return RunState(None, leader_alive=False, alive=False, lost=lost, started=True)


def _was_requeued(job: SlurmJob, files: GangFiles) -> bool:
    """Whether the job ended at once because its first run, elsewhere, had claimed its part before."""
    return job.state == "FAILED" and files.any_claimed and not files.ends()
