"""How often the kernel has ended a process because memory ran out: what tells such a death from any other by signal 9.

The kernel counts for each control group that limits memory (version 2), else for the whole machine; a container sees
its own group. Read before and after a run, the number says what the log of a process that was killed cannot.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_MACHINE = Path("/proc/vmstat")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def memory_kills() -> int | None:
    """Processes of this process's control group, or else of the machine, that the kernel has ended so; None: untold."""
    for path in (*_group_events(), _MACHINE):
        if path.exists() and (match := _COUNT.search(path.read_text(encoding="utf-8"))):
            return int(match[1])
    return None


def describe_kill() -> str:
    """A line for a log; retry rules know it."""
    return f"the kernel of {socket.gethostname()} killed a process for lack of memory"


def _group_events() -> list[Path]:
    if not _OWN_GROUP.exists():
        return []
    lines = _OWN_GROUP.read_text(encoding="utf-8").splitlines()
    return [_GROUPS / line.removeprefix("0::/") / "memory.events" for line in lines if line.startswith("0::/")]
