"""The process that has one node's part of a run: `python -m service.launchers.node_agent`, started by an engine.

It claims its part, so that a second one that an engine starts by itself does nothing; agrees with the other nodes on
where rank 0 listens; starts DeepSpeed's launcher in a session of its own; and ends everything in it as soon as the
process that started it is gone, the launch was given up, or another node's part has failed and stayed so. A wish to
stop, which a file in the attempt's folder or SIGTERM tells, is passed on to the ranks alone: DeepSpeed's launcher would
kill a rank that still saves after 30 s.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil

import trainer
from service.launchers.gang import GangFiles, NodeEnd, NodePart, NodeStart, claim, world_info
from service.launchers.memory_kills import describe_kill, memory_kills
from service.launchers.processes import TAG_VARIABLE, lives, send
from trainer import fence
from trainer.job_dir import AttemptDir, Record, write_json_atomically

POLL_S = 0.5
PEER_GRACE_S = 30.0
"""How long a node goes on after another one's part failed: its ranks notice by themselves, unless they hang."""
RENDEZVOUS_TIMEOUT_S = 600.0
"""How long a node waits for the first one to say where rank 0 listens."""

_KILLED = (-9, 137, 247)
"""Exit codes of a launcher that was killed, or passes on that a rank was."""

ADDRESS_VARIABLE = "ATTUNE_NODE_ADDRESS"
"""The address at which other nodes reach this one; where it is not set, the one that its default route has."""


class Rendezvous(Record):
    """`rendezvous.json`: where rank 0 listens."""

    token: str
    address: str
    port: int


class NodeAgent:
    """One node's part of a run."""

    def __init__(self, part: NodePart) -> None:
        self._part = part
        self._files = GangFiles(_attempt_dir(part), num_nodes=len(part.ranks))
        self._parent = psutil.Process().parent()
        self._launcher: subprocess.Popen[bytes] | None = None
        self._peer_failed_at: float | None = None
        self._stop_wanted = False
        self._asked: set[int] = set()
        self._killed_before = memory_kills()

    def run(self) -> int:
        """Claim the part, start its processes, and watch them to their end; an exit code."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            fence.require(self._part.attempt_dir, token=self._part.token)
        except fence.Fenced as error:
            print(f"node {self._part.node_rank} does nothing: {error}", file=sys.stderr)
            return 1
        own = NodeStart(token=self._part.token, host=socket.gethostname(), pid=os.getpid())
        path = self._files.start(self._part.node_rank)
        if not claim(path, own):
            print(f"node {self._part.node_rank} does nothing: {path} says that it was begun before", file=sys.stderr)
            return 1
        cause, code = self._work(own)
        self._kill()
        self._tell_of_memory(code)
        write_json_atomically(self._files.end(self._part.node_rank), NodeEnd(cause=cause, code=code, time=time.time()))
        return 1 if code is None else min(abs(code), 255)

    def _work(self, own: NodeStart) -> tuple[Literal["exit", "orphaned", "fenced", "peer"], int | None]:
        where = self._meet()
        if isinstance(where, str):
            return where, None
        self._launcher = _start(self._part, where)
        write_json_atomically(
            self._files.start(self._part.node_rank), own.model_copy(update={"launcher_pid": self._launcher.pid})
        )
        while (code := self._launcher.poll()) is None:
            if self._stop_wanted or self._files.stop_wanted:
                self._ask_ranks_to_stop()
            if reason := self._reason_to_end():
                return reason, None
            time.sleep(POLL_S)
        return "exit", code

    def _tell_of_memory(self, code: int | None) -> None:
        """Say in the log that a rank was killed for lack of memory, as nobody else would."""
        now = memory_kills()
        if code in _KILLED and now is not None and self._killed_before is not None and now > self._killed_before:
            with _attempt_dir(self._part).log.open("a", encoding="utf-8") as log:
                log.write(f"{describe_kill()}\n")

    def _meet(self) -> Rendezvous | Literal["orphaned", "fenced", "peer"]:
        """Where rank 0 listens: said by the first node, awaited by the others."""
        path = self._files.path / "rendezvous.json"
        if self._part.node_rank == 0:
            where = Rendezvous(token=self._part.token, address=_own_address(), port=_free_port())
            write_json_atomically(path, where)
            return where
        deadline = time.monotonic() + RENDEZVOUS_TIMEOUT_S
        while time.monotonic() < deadline:
            if path.exists() and (where := Rendezvous.model_validate_json(path.read_bytes())).token == self._part.token:
                return where
            if reason := self._reason_to_end():
                return reason
            time.sleep(POLL_S)
        return "peer"

    def _reason_to_end(self) -> Literal["orphaned", "fenced", "peer"] | None:
        if self._parent is None or not lives(self._parent) or os.getppid() != self._parent.pid:
            return "orphaned"
        try:
            fence.require(self._part.attempt_dir, token=self._part.token)
        except fence.Fenced:
            return "fenced"
        failed = any(end.cause != "exit" or end.code for end in self._files.ends().values())
        if not failed:
            return None
        self._peer_failed_at = self._peer_failed_at or time.monotonic()
        return "peer" if time.monotonic() > self._peer_failed_at + PEER_GRACE_S else None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._stop_wanted = True

    def _ask_ranks_to_stop(self) -> None:
        """SIGTERM to each rank once, also to one that the launcher has only just started."""
        for process in _children(self._launcher):
            if process.pid not in self._asked:
                self._asked.add(process.pid)
                send(process, signal.SIGTERM)

    def _kill(self) -> None:
        """End what is left, also where the launcher has died and left its ranks alone: they are in its group."""
        if self._launcher is None:
            return
        for process in _descendants(self._launcher):
            send(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._launcher.pid, signal.SIGKILL)
        self._launcher.wait()


def _start(part: NodePart, where: Rendezvous) -> subprocess.Popen[bytes]:
    name = "worker.log" if part.node_rank == 0 else f"worker-node{part.node_rank}.log"
    with (part.attempt_dir / name).open("ab") as output:
        return subprocess.Popen(
            list(part.command) or _deepspeed_command(part, where),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(part, where),
            start_new_session=True,
        )


def _deepspeed_command(part: NodePart, where: Rendezvous) -> list[str]:
    """DeepSpeed's launcher for one node, which its runner would have started over ssh."""
    encoded = base64.urlsafe_b64encode(world_info(part, _devices(part)).encode()).decode()
    node = [f"--world_info={encoded}", f"--node_rank={part.node_rank}"]
    meeting = [f"--master_addr={where.address}", f"--master_port={where.port}"]
    script = str(Path(trainer.__file__).parent / "run.py")
    attempt = _attempt_dir(part)
    arguments = ["--job-dir", str(attempt.path.parents[1]), "--attempt", str(attempt.number)]
    resume = ["--resume"] if part.resume else []
    return [sys.executable, "-m", "deepspeed.launcher.launch", *node, *meeting, script, *arguments, *resume]


def _environment(part: NodePart, where: Rendezvous) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    threads = cores // part.ranks[part.node_rank] if part.kind == "gpu" else 1  # a CPU slot is one core
    # Ray's own variables would make a rank that imports ray a member of the cluster.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        TAG_VARIABLE: part.tag,
        fence.TOKEN_VARIABLE: part.token,
        "ATTUNE_ORPHAN_GRACE_S": "0",
        "MASTER_ADDR": where.address,
        "MASTER_PORT": str(where.port),
        "ATTUNE_NODE_RANK": str(part.node_rank),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max(1, threads)),
    }
    if part.kind == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _devices(part: NodePart) -> Sequence[int]:
    """The GPUs that the engine has given this process: it counts them itself, whatever the plan's numbers are."""
    given = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip().isdigit()]
    count = part.ranks[part.node_rank]
    if part.kind == "gpu" and len(given) >= count:
        return [int(entry) for entry in given[:count]]
    return range(count)


def _own_address() -> str:
    """An address of this machine that others can reach; 127.0.0.1 where it has no network."""
    if given := os.environ.get(ADDRESS_VARIABLE):
        return given
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; only asks for the route (an address kept for examples)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _children(launcher: subprocess.Popen[bytes] | None) -> list[psutil.Process]:
    return _family(launcher, recursive=False)


def _descendants(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return _family(launcher, recursive=True)


def _family(launcher: subprocess.Popen[bytes] | None, *, recursive: bool) -> list[psutil.Process]:
    if launcher is None or launcher.poll() is not None:
        return []
    try:
        return psutil.Process(launcher.pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _attempt_dir(part: NodePart) -> AttemptDir:
    return AttemptDir(part.attempt_dir, int(part.attempt_dir.name))


def _parse(arguments: Sequence[str], environment: Mapping[str, str]) -> NodePart:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name if __spec__ else __name__}")
    parser.add_argument("--attempt-dir", type=Path, required=True)
    parser.add_argument("--node-rank", type=int, help="by default SLURM_PROCID")
    parser.add_argument("--ranks", required=True, help="ranks of every node, such as 4,4")
    parser.add_argument("--tag", required=True)
    parser.add_argument("--kind", choices=("gpu", "cpu"), required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("command", nargs="*", help="in place of DeepSpeed's launcher")
    given = parser.parse_args(arguments)
    return NodePart(
        attempt_dir=given.attempt_dir,
        node_rank=int(environment["SLURM_PROCID"]) if given.node_rank is None else given.node_rank,
        ranks=tuple(int(count) for count in given.ranks.split(",")),
        token=environment[fence.TOKEN_VARIABLE],
        tag=given.tag,
        resume=given.resume,
        kind=given.kind,
        command=tuple(given.command),
    )


if __name__ == "__main__":
    sys.exit(NodeAgent(_parse(sys.argv[1:], os.environ)).run())
