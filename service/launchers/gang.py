"""What engines of several machines share: how a run is started on each of its nodes, and what the nodes leave behind.

Every engine starts one node agent (`service.launchers.node_agent`) a machine. All else goes through the attempt's
folder, which all machines see:

    JOB/attempts/0001/
      token.json           the launch token (`trainer.fence`)
      rendezvous.json      where rank 0 listens, by the first node's agent
      nodes/0.json         NodeStart: an agent has claimed this node's part; there can be only one
      nodes/0-end.json     NodeEnd: how it ended
      stop                 the ranks shall save and end
      cleared              nothing of the run is left, on no node
      worker.log           output of the first node's ranks; `worker-node1.log` and so on of the others
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from service.launchers.base import LostReason, Run
from trainer import fence
from trainer.job_dir import AttemptDir, JobDir, Record

AGENT = "service.launchers.node_agent"
GangCommand = Callable[[Run], Sequence[str]]
"""Makes the argument list that each node runs in place of DeepSpeed's launcher."""

_FORWARDED = (
    "PYTHONPATH",
    "CUDA_HOME",
    "CUDA_DEVICE_ORDER",
    "LD_LIBRARY_PATH",
    "OMPI_",
    "NCCL_",
    "GLOO_",
    "TORCH_",
    "HF_HOME",
    "HF_HUB_",
    "ATTUNE_WEIGHTS_DIR",
    "ATTUNE_ORPHAN_",
)
"""Beginnings of the names of variables that reach the workers. The service's own settings and secrets do not."""


class NodeStart(Record):
    """`nodes/0.json`: the agent that has this part of the run."""

    token: str
    host: str
    pid: int
    launcher_pid: int | None = None
    """DeepSpeed's launcher, leader of the session that all ranks of the node are in."""


class NodeEnd(Record):
    """`nodes/0-end.json`: how a node's part of the run ended."""

    cause: Literal["exit", "orphaned", "fenced", "peer", "killed"]
    """`exit`: its processes ended by themselves. The agent ended them: `orphaned`, its engine had gone; `fenced`, the
    launch was given up; `peer`, another node's part had failed; `killed`, it was told to."""
    code: int | None = None
    """Exit code of the node's launcher."""
    time: float
    """Unix seconds."""


@dataclass(frozen=True)
class NodePart:
    """One node's part of a run: what its agent is told."""

    attempt_dir: Path
    node_rank: int
    """0 is the one with rank 0."""
    ranks: tuple[int, ...]
    """Ranks of every node, in order."""
    token: str
    tag: str
    """`JOB/ATTEMPT`, in the environment of every process."""
    resume: bool
    kind: Literal["gpu", "cpu"]
    command: tuple[str, ...] = ()
    """What to run in place of DeepSpeed's launcher."""

    def arguments(self, *, numbered: bool = True) -> list[str]:
        """The agent's command line, after the interpreter; it may be read by anybody on the machine, so the token is
        not in it. Not `numbered`: the same for all nodes, whose number is the engine's own for the task."""
        options = {
            "--attempt-dir": str(self.attempt_dir),
            "--ranks": ",".join(str(count) for count in self.ranks),
            "--tag": self.tag,
            "--kind": self.kind,
        }
        flat = [part for option in options.items() for part in option]
        node = ["--node-rank", str(self.node_rank)] if numbered else []
        return ["-m", AGENT, *flat, *node, *(["--resume"] if self.resume else []), "--", *self.command]


class GangFiles:
    """The files of one attempt on several machines."""

    def __init__(self, attempt: AttemptDir, *, num_nodes: int) -> None:
        self.path = attempt.path
        self._num_nodes = num_nodes

    @classmethod
    def of(cls, run: Run) -> GangFiles:
        """The files of a run."""
        return cls(JobDir(run.job_dir).attempt(run.attempt), num_nodes=len(run.placement))

    def start(self, node_rank: int) -> Path:
        """nodes/0.json"""
        return self.path / "nodes" / f"{node_rank}.json"

    def end(self, node_rank: int) -> Path:
        """nodes/0-end.json"""
        return self.path / "nodes" / f"{node_rank}-end.json"

    def ends(self) -> dict[int, NodeEnd]:
        """How those nodes' parts ended that have, by node rank."""
        found = {rank: _read_end(self.end(rank)) for rank in range(self._num_nodes)}
        return {rank: end for rank, end in found.items() if end is not None}

    @property
    def any_claimed(self) -> bool:
        """Whether any node has begun."""
        return any(self.start(rank).exists() for rank in range(self._num_nodes))

    @property
    def all_ended(self) -> bool:
        """Whether every node says that its part has ended."""
        return len(self.ends()) == self._num_nodes

    @property
    def was_abandoned(self) -> bool:
        """Whether a node's processes were ended because their engine had gone."""
        return any(end.cause == "orphaned" for end in self.ends().values())

    @property
    def given_up(self) -> str | None:
        """Why the launch was given up; None if it was not, or never begun."""
        token = fence.read_token(self.path)
        return token.reason if token is not None and token.token is None else None

    @property
    def stop_wanted(self) -> bool:
        """Whether the ranks shall save and end."""
        return (self.path / "stop").exists()

    def ask_to_stop(self) -> None:
        """Ask the ranks to save and end; their agents see it within a second."""
        (self.path / "stop").touch()

    @property
    def was_cleared(self) -> bool:
        """Whether all that the run had started was seen to be gone."""
        return (self.path / "cleared").exists()

    @property
    def lost_when_cleared(self) -> LostReason | None:
        """Why the run was lost, if it was, when it was cleared away."""
        return to_lost_reason((self.path / "cleared").read_text(encoding="utf-8"))

    def note_cleared(self, lost: LostReason | None) -> None:
        """Note that nothing of the run is left, and why it was lost."""
        temporary = self.path / f".cleared.{os.getpid()}"
        temporary.write_text(lost or "", encoding="utf-8")
        temporary.replace(self.path / "cleared")

    def give_up(self, reason: str) -> None:
        """Take the launch token away, whose processes then end by themselves; the first reason stays."""
        if self.given_up is None:
            fence.take_away(self.path, reason=reason)


def part_of(
    run: Run, *, node_rank: int, kind: Literal["gpu", "cpu"], token: str, command: GangCommand | None
) -> NodePart:
    """What the agent of one node of a run is told."""
    return NodePart(
        attempt_dir=JobDir(run.job_dir).attempt(run.attempt).path,
        node_rank=node_rank,
        ranks=tuple(len(share.devices) for share in run.placement),
        token=token,
        tag=f"{run.job_id}/{run.attempt}",
        resume=run.resume,
        kind=kind,
        command=tuple(command(run)) if command else (),
    )


def forwarded(environment: Mapping[str, str], *, weights_dir: Path | None) -> dict[str, str]:
    """The variables of the service's environment that its workers on other machines get."""
    chosen = {name: value for name, value in environment.items() if name.startswith(_FORWARDED)}
    return chosen | ({"ATTUNE_WEIGHTS_DIR": str(weights_dir)} if weights_dir is not None else {})


def to_lost_reason(text: str | None) -> LostReason | None:
    """A reason for which a launch was given up, if it is one for which a run is lost."""
    return "node_lost" if text == "node_lost" else "engine_lost" if text == "engine_lost" else None


def issue_token(run: Run) -> str:
    """A fresh launch token for a run, in its folder.

    Raises:
        Fenced: the attempt was given up before it began.
    """
    return fence.issue(JobDir(run.job_dir).attempt(run.attempt).path)


def claim(path: Path, start: NodeStart) -> bool:
    """Write `start` if nobody was there before; whether that was so. Holds over NFS too: a hard link is made once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{start.host}.{start.pid}")
    own.write_text(start.model_dump_json(), encoding="utf-8")
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True


def world_info(part: NodePart, devices: Sequence[int]) -> str:
    """What DeepSpeed's launcher wants to know of all nodes, as JSON: only this node's device numbers matter."""
    return json.dumps(
        {
            f"node{rank}": list(devices) if rank == part.node_rank else list(range(count))
            for rank, count in enumerate(part.ranks)
        }
    )


def _read_end(path: Path) -> NodeEnd | None:
    try:
        return NodeEnd.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
