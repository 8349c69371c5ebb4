"""The engine of a Ray cluster: a gang of detached actors a run, one a node; see docs/distributed.md.

Nothing of a run is kept here: the cluster, by name, and the attempt's folder tell everything to any replica of the
service at any time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from service.launchers.base import (
    PASSING,
    Capacity,
    EngineUnavailable,
    LaunchError,
    LostReason,
    NodeShare,
    Run,
    RunState,
    Submitted,
)
from service.launchers.gang import GangCommand, GangFiles, forwarded, issue_token, part_of, to_lost_reason
from service.launchers.ray.connection import Connection, driver_environment
from trainer.fence import TOKEN_VARIABLE

_CAPACITY_AGE_S = 1.0


class RayLauncher:
    """Runs attempts on the nodes of a Ray cluster."""

    name = "ray"
    shared = True

    def __init__(
        self,
        *,
        address: str,
        namespace: str = "attune",
        token_file: Path | None = None,
        slots_per_node: int | None = None,
        lost_after_s: float = 60.0,
        weights_dir: Path | None = None,
        command: GangCommand | None = None,
        environment: Mapping[str, str] = os.environ,
        worker_environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Connect; a cluster that does not answer yet is tried again and again.

        Args:
            address: `HOST:PORT` of the cluster's head; a Ray node must run on this machine too, with 0 CPUs if it
                shall run nothing.
            slots_per_node: CPU slots to use of each node where no node has a GPU; None: its CPUs.
            lost_after_s: seconds without the cluster after which its runs count as lost.
            command: what nodes run in place of DeepSpeed's launcher.
            worker_environment: variables that the workers get beside those of `gang.forwarded`.

        Raises:
            EngineRefused: Ray or the token is missing, or the cluster must not be used.
        """
        self._slots_per_node = slots_per_node
        self._lost_after_s = lost_after_s
        self._command = command
        self._forwarded = forwarded(environment, weights_dir=weights_dir) | dict(worker_environment)
        self._connection = Connection(
            address=address, namespace=namespace, environment=driver_environment(environment, token_file=token_file)
        )
        self._capacity = Capacity("gpu", (), may_grow=True, problem="not asked yet")
        self._has_gpus = False
        self._capacity_at = float("-inf")
        self._looking = threading.Lock()
        self._connection.open()

    def capacity(self) -> Capacity:
        """The devices of the nodes that live: GPUs or, where there are none, CPU slots. At most a second old."""
        with self._looking:
            if time.monotonic() > self._capacity_at + _CAPACITY_AGE_S:
                self._capacity = self._look_at_cluster()
                self._capacity_at = time.monotonic()
            return self._capacity

    def submit(self, run: Run) -> Submitted:
        """Ask for the run's gang; its ranks start when Ray has placed all of it.

        Raises:
            LaunchError: the attempt's folder cannot be written.
            EngineUnavailable: the cluster does not answer.
        """
        kind = self._kind()
        files = GangFiles.of(run)
        try:
            token = issue_token(run)
        except OSError as error:
            if error.errno in PASSING:
                raise
            raise LaunchError(f"cannot write to {files.path}: {error.strerror}") from error
        parts = []
        for number, share in enumerate(run.placement):
            part = part_of(run, node_rank=number, kind=kind, token=token, command=self._command)
            parts.append(
                {
                    "node": share.node,
                    "devices": len(share.devices),
                    "arguments": part.arguments(),
                    "environment": self._forwarded | {TOKEN_VARIABLE: token},
                    "log": str(files.path / ("worker.log" if number == 0 else f"worker-node{number}.log")),
                }
            )
        self._connection.ask("start", _tag(run), kind, parts)
        return Submitted(engine_ref={"group": f"attune/{_tag(run)}"})

    def poll(self, run: Run) -> RunState:
        """Look at a run, whichever replica started it.

        Raises:
            EngineUnavailable: the cluster does not answer, and the run is not known to have been started.
        """
        files = GangFiles.of(run)
        begun = run.engine_ref is not None or files.any_claimed
        try:
            return self._look(run, files, begun=begun)
        except EngineUnavailable:
            lost_at = self._connection.lost_at
            if not begun:
                raise
            if lost_at is None or time.monotonic() < lost_at + self._lost_after_s:
                return _ALIVE
            files.give_up("engine_lost")
            return _gone("engine_lost")

    def signal(self, run: Run, number: signal.Signals) -> None:
        """SIGKILL ends every process of the run, on all nodes; others reach the ranks.

        Raises:
            EngineUnavailable: the cluster does not answer. After SIGKILL the processes end all the same.
        """
        files = GangFiles.of(run)
        if number == signal.SIGKILL:
            files.give_up("killed")
            self._end(run, files, lost=None)
        else:
            files.ask_to_stop()

    def list(self) -> Sequence[str]:
        """`JOB/ATTEMPT` of every run that has an actor in the cluster.

        Raises:
            EngineUnavailable: the cluster does not answer.
        """
        found: list[str] = self._connection.ask("list")
        return found

    def close(self) -> None:
        """Let go of the cluster; what runs in it runs on."""
        self._connection.close()

    def _look(self, run: Run, files: GangFiles, *, begun: bool) -> RunState:
        if files.was_cleared:
            return _gone(files.lost_when_cleared)
        if reason := files.given_up:
            return self._end(run, files, lost=to_lost_reason(reason))
        seen = self._connection.ask("look", _tag(run), len(run.placement))
        if not seen["known"] and not begun:
            return RunState(None, leader_alive=False, alive=False, started=False)
        missing = _missing(run, seen["living"])
        if files.all_ended:
            lost: LostReason = "node_lost" if missing else "engine_lost"
            return self._end(run, files, lost=lost if files.was_abandoned else None)
        ended = files.ends()
        if any(share.node in missing and rank not in ended for rank, share in enumerate(run.placement)):
            return self._give_up(run, files, "node_lost")
        if seen["waiting"]:
            return _ALIVE
        gone = {rank: part["gone"] for rank, part in enumerate(seen["parts"]) if "gone" in part and rank not in ended}
        if gone or not seen["known"]:
            _tell(files, f"Ray lost this run: {'; '.join(gone.values()) or 'it does not know it any more'}")
            return self._give_up(run, files, "engine_lost")
        if any(part.get("alive") is False and rank not in files.ends() for rank, part in enumerate(seen["parts"])):
            return self._end(run, files, lost=None)  # an agent that could not even say that it ended
        return _ALIVE

    def _give_up(self, run: Run, files: GangFiles, reason: LostReason) -> RunState:
        files.give_up(reason)
        return self._end(run, files, lost=reason)

    def _end(self, run: Run, files: GangFiles, *, lost: LostReason | None) -> RunState:
        """Clear away what is left of a run. Only when nothing is has it ended: its devices go to others then."""
        if not files.was_cleared:
            seen = self._connection.ask("end", _tag(run), _nodes(run))
            if seen["left"]:
                return _ALIVE
            # Ray misses an actor sooner than its node; it knows now why the actor went.
            lost = "node_lost" if lost is not None and _missing(run, seen["living"]) else lost
            files.note_cleared(lost)
        return _gone(files.lost_when_cleared)

    def _kind(self) -> Literal["gpu", "cpu"]:
        capacity = self.capacity()
        if capacity.problem is not None:
            raise EngineUnavailable(capacity.problem)
        return capacity.kind

    def _look_at_cluster(self) -> Capacity:
        try:
            seen = self._connection.ask("capacity")
        except EngineUnavailable as error:
            return Capacity(self._capacity.kind, (), may_grow=True, problem=str(error))
        waiting = seen["num_waiting"]
        note = f"{waiting} {'run waits' if waiting == 1 else 'runs wait'} in Ray for devices" if waiting else ""
        # Where the machines with GPUs are away for a while, their jobs must wait, not start on CPUs.
        self._has_gpus = self._has_gpus or any(node["gpus"] for node in seen["nodes"])
        kind: Literal["gpu", "cpu"] = "gpu" if self._has_gpus else "cpu"
        shares = [NodeShare(node["node"], tuple(range(self._count(node, kind)))) for node in seen["nodes"]]
        return Capacity(kind, tuple(share for share in shares if share.devices), may_grow=True, note=note)

    def _count(self, node: Mapping[str, Any], kind: str) -> int:
        if kind == "gpu":
            return int(node["gpus"])
        return int(min(node["cpus"], self._slots_per_node or node["cpus"]))


_ALIVE = RunState(None, leader_alive=True, alive=True, started=True)


def _gone(lost: LostReason | None) -> RunState:
    return RunState(None, leader_alive=False, alive=False, lost=lost, started=True)


def _tag(run: Run) -> str:
    return f"{run.job_id}/{run.attempt}"


def _nodes(run: Run) -> list[str]:
    return [share.node for share in run.placement]


def _missing(run: Run, living: Sequence[str]) -> set[str]:
    """The run's nodes that Ray does not have any more."""
    return set(_nodes(run)) - set(living)


def _tell(files: GangFiles, text: str) -> None:
    """A line at the end of the attempt's log, where people look first."""
    with (files.path / "worker.log").open("a", encoding="utf-8") as log:
        log.write(text + "\n")
