"""A stand-in for one node's part of a training run: what each node of a gang runs in place of DeepSpeed's launcher.

    python gang_worker.py JOB_DIR ATTEMPT

The first node takes steps until JOB_DIR/finish is there, then writes exit.json; the others wait for that. Every one
has a child, as a launcher has ranks, and writes `here-NODE.json`. SIGTERM reaches the children only, and ends the run
unless JOB_DIR/deaf is there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer import fence
from trainer.job_dir import ExitRecord, JobDir, write_json_atomically


def rank(job_dir: Path, attempt: int, node: int) -> int:
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: (job_dir / "deaf").exists() or stop.append(1))
    paths = JobDir(job_dir).attempt(attempt)
    here = {"pid": os.getpid(), "launcher": os.getppid(), "agent": _parent_of(os.getppid())}
    names = (
        "MASTER_ADDR",
        "MASTER_PORT",
        "ATTUNE_NODE_RANK",
        "ATTUNE_ATTEMPT",
        "RAY_AUTH_TOKEN_PATH",
        "OMP_NUM_THREADS",
    )
    write_json_atomically(paths.path / f"here-{node}.json", here | {name: os.environ.get(name) for name in names})
    while not ((job_dir / "finish").exists() or stop or paths.exit.exists()):
        time.sleep(0.05)
        if os.getppid() != here["launcher"] or _parent_of(os.getppid()) != here["agent"]:
            return 1  # as real ranks, which watch both
        if (job_dir / f"fail-{node}").exists():
            return 3
    if node == 0:
        fence.require_own(paths.path)
        status, reason = ("interrupted", "signal") if stop else ("succeeded", "completed")
        ended = ExitRecord(status=status, reason=reason, message=f"it {status}", step=1, time=time.time())
        write_json_atomically(paths.exit, ended)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a word that comes late must not look like a death
    return 0


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


if __name__ == "__main__":
    given = (Path(sys.argv[1]), int(sys.argv[2]), int(os.environ["ATTUNE_NODE_RANK"]))
    if "RANK" in os.environ:
        sys.exit(rank(*given))
    print(json.dumps({"node": given[2]}), flush=True)
    sys.exit(subprocess.run([sys.executable, *sys.argv], env={**os.environ, "RANK": "0"}, check=False).returncode)
