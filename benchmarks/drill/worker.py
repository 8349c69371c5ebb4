"""Stands where DeepSpeed's launcher stands for the drill's short jobs, and starts it for the real ones.

    python worker.py launch JSON         on a node of an attempt: holds its devices, and starts its ranks
    python worker.py rank JSON NUMBER    one of them
    python worker.py preflight JOB_DIR   finds nothing wrong with the data, or what the job is to fail by

A short job's rank 0 keeps the contract of the job folder (`trainer.job_dir`): it logs steps, publishes checkpoints,
goes on from the latest, saves on SIGTERM, exports and writes exit.json. What else it does is in the job's metadata,
where `plan.py` has written it. All but rank 0 import the standard library alone: hundreds of processes must be cheap.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent)

from device_locks import hold  # noqa: E402

POLL_S = 0.05


class Launch:
    """What `command_line` has passed on."""

    def __init__(self, encoded: str) -> None:
        given = json.loads(encoded)
        self.encoded = encoded
        self.job_dir = Path(given["job_dir"])
        self.attempt: int = given["attempt"]
        self.locks = Path(given["locks"])
        self.placement: list[tuple[str, list[int]]] = given["placement"]
        self.resume: bool = given["resume"]
        self.command: list[str] = given["command"]
        self.attempt_dir = self.job_dir / "attempts" / f"{self.attempt:04d}"
        self.node_rank = int(os.environ.get("ATTUNE_NODE_RANK", "0"))

    @property
    def script(self) -> dict[str, Any]:
        """The part of the job's metadata that is meant for this program."""
        found: dict[str, Any] = json.loads(json.loads((self.job_dir / "spec.json").read_bytes())["metadata"]["script"])
        return found

    @property
    def ranks(self) -> list[int]:
        """The ranks of this node."""
        before = sum(len(devices) for _, devices in self.placement[: self.node_rank])
        return list(range(before, before + len(self.placement[self.node_rank][1])))

    @property
    def world_size(self) -> int:
        """The ranks of all nodes."""
        return sum(len(devices) for _, devices in self.placement)

    @property
    def held(self) -> list[str]:
        """What a process of this node's part holds: its devices, and the job."""
        node, devices = self.placement[self.node_rank]
        return [*(f"{node}.{device}" for device in devices), f"job.{self.job_dir.name}"]


def command_line(
    *,
    job_dir: Path,
    attempt: int,
    locks: Path,
    placement: list[tuple[str, list[int]]],
    resume: bool,
    command: list[str],
) -> list[str]:
    """The argument list of an attempt; `command` is what to run in place of short ranks."""
    given = {"job_dir": str(job_dir), "attempt": attempt, "locks": str(locks), "placement": placement,
             "resume": resume, "command": command}  # fmt: skip
    return [sys.executable, __file__, "launch", json.dumps(given)]


def launch(encoded: str) -> int:
    """Start this node's ranks, and end them all when one fails, as DeepSpeed's launcher does."""
    this = Launch(encoded)
    held = [hold(this.locks, name, tag=f"{this.job_dir.name}.{this.attempt}") for name in this.held]
    if this.command:
        for descriptor in held:
            os.set_inheritable(descriptor, True)
        command = [_filled(word, this) for word in this.command]
        # DeepSpeed's launcher closes what it inherits before it starts its ranks: they hold for themselves.
        os.execve(command[0], command, os.environ | {"DRILL_LOCKS": str(this.locks), "DRILL_HELD": " ".join(this.held)})
    ranks = [
        subprocess.Popen([sys.executable, __file__, "rank", encoded, str(rank)], pass_fds=held) for rank in this.ranks
    ]
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks):
            for rank in ranks:
                rank.kill()
        time.sleep(POLL_S)
    return max(abs(rank.wait()) for rank in ranks)


def _filled(word: str, this: Launch) -> str:
    """DeepSpeed's launcher on one of several nodes is told by its agent which one it is, and where rank 0 listens."""
    world = {f"node{rank}": list(range(len(devices))) for rank, (_, devices) in enumerate(this.placement)}
    known = {
        "{world_info}": base64.urlsafe_b64encode(json.dumps(world).encode()).decode(),
        "{node_rank}": str(this.node_rank),
        "{address}": os.environ.get("MASTER_ADDR", ""),
        "{port}": os.environ.get("MASTER_PORT", ""),
    }
    for name, value in known.items():
        word = word.replace(name, value)
    return word


def rank(encoded: str, number: int) -> int:
    """One rank of a short job."""
    this = Launch(encoded)
    pid_file = this.attempt_dir / f"rank-{number}.pid"
    temporary = pid_file.with_suffix(".tmp")
    temporary.write_text(str(os.getpid()))
    temporary.replace(pid_file)
    if number == 0:
        from rank_zero import RankZero

        return RankZero(this).run()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 saves; this one ends when it has
    parent = os.getppid()
    while os.getppid() == parent:
        if (this.attempt_dir / "exit.json").exists():
            return 0
        if not peers_live(this, [0], patience_s=30.0):
            return 1
        time.sleep(POLL_S)
    return 1


def peers_live(this: Launch, ranks: list[int], *, patience_s: float = 0.0) -> bool:
    """Whether all of `ranks` run, which a collective operation would notice; they have `patience_s` to come."""
    deadline = time.monotonic() + patience_s
    pids = [this.attempt_dir / f"rank-{number}.pid" for number in ranks]
    while not all(path.exists() for path in pids):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return all(_runs(int(path.read_text())) for path in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def preflight(job_dir: Path) -> int:
    """Write the report on data that nobody looked at."""
    script = json.loads(json.loads((job_dir / "spec.json").read_bytes())["metadata"]["script"])
    time.sleep(script.get("preflight_s", 0.0))
    problems = []
    if script["end"] == "bad_files":
        problems.append({"field": "data.train.path", "message": "the drill wants this data to be unusable"})
    report = job_dir / "preflight" / "report.json"
    temporary = report.with_name(f".report.{os.getpid()}")
    temporary.write_text(json.dumps({"ok": not problems, "problems": problems}))
    temporary.replace(report)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "preflight":
        sys.exit(preflight(Path(sys.argv[2])))
    sys.exit(launch(sys.argv[2]) if sys.argv[1] == "launch" else rank(sys.argv[2], int(sys.argv[3])))
