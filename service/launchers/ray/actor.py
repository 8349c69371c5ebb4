"""The actor that has one node's part of a run: a thin shell around the node agent, which dies with it.

Detached and named, so that any later driver finds it again. Nodes need the same version of this package.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.launchers.processes import TAG_VARIABLE, lives, send, tags

_GONE_TIMEOUT_S = 10.0


class NodeActor:
    """Starts one node agent, and tells and ends it. Methods are called over Ray."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], *, tag: str, log: str) -> None:
        self._tag = tag
        with Path(log).open("ab") as output:
            self._agent = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, TAG_VARIABLE: tag},
                start_new_session=True,
            )

    def look(self) -> dict[str, Any]:
        """Whether the agent lives, and what it exited with."""
        code = self._agent.poll()
        return {"alive": code is None, "code": code, "pid": self._agent.pid}

    def end(self) -> int:
        """Kill every process of the run on this machine, and wait until they are gone; how many are left."""
        left = end_tagged(self._tag)
        self._agent.poll()
        return left


def end_tagged(tag: str) -> int:
    """Kill every process that carries `tag` on this machine; how many are left after some seconds.

    Several Ray nodes on one machine are one here: on each of them a run has processes of its own that all end.
    """
    found = [process for process, _, name in tags() if name == tag]
    for process in found:
        send(process, signal.SIGKILL)
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while (left := [process for process in found if lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(left)
