"""A Ray cluster of several nodes on this machine, by the same `ray start` commands that docs/distributed.md tells."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


class RayCluster:
    """A head without CPUs, and nodes that can be killed one by one."""

    def __init__(self, folder: Path, *, token: bool = True) -> None:
        self.token_file = folder / "token"
        self.token_file.write_text(secrets.token_hex(16))
        self.token_file.chmod(0o600)
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._logs = folder
        # Ray's sockets lie below it, whose paths must be short.
        self._temporary = tempfile.mkdtemp(prefix="attune-ray-", dir="/tmp")
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_health_check_period_ms": "1000"}
        self.environment = kept | quiet | (mode if token else {"RAY_AUTH_MODE": "disabled"})

    def start(self, *, num_nodes: int = 2, cpus: int = 2) -> None:
        """Start the head, then `num_nodes` nodes named `1`, `2` and so on; one by one: several at once run into Ray's
        own time limits on a busy machine."""
        self.start_head()
        for number in range(num_nodes):
            self.start_node(str(number + 1), cpus=cpus)

    def start_head(self) -> None:
        """Start the head, and wait until it answers."""
        options = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        self._start("head", [*options, f"--temp-dir={self._temporary}"])
        self._await("head")

    def start_node(self, name: str, *, cpus: int = 2) -> None:
        """Start a node, and wait until it has joined."""
        self._start(name, [f"--address={self.address}", f"--num-cpus={cpus}"])
        self._await(name)

    def kill_node(self, name: str) -> None:
        """kill -9 everything of a node, as a power cut does. What its actors have started is left to itself."""
        process = self._nodes.pop(name)
        if process.poll() is not None:
            return
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        of_ray = [member for member in family if not _is_of_attune(member)]
        for member in of_ray:
            _kill(member)
        process.wait()

    def stop(self) -> None:
        """Kill all nodes, the head last."""
        for name in sorted(self._nodes, key=lambda name: name == "head"):
            self.kill_node(name)
        for process in psutil.process_iter(["cmdline", "environ"]):
            if self._temporary in " ".join(process.info["cmdline"] or ()):
                _kill(process)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _start(self, name: str, options: list[str]) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, "--block"]
        with (self._logs / f"{name}.log").open("wb") as log:
            self._nodes[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _await(self, name: str) -> None:
        log, deadline = self._logs / f"{name}.log", time.monotonic() + 120
        while "Ray runtime started" not in (text := log.read_text()):
            assert self._nodes[name].poll() is None, text
            assert time.monotonic() < deadline, f"Ray node {name} did not start: {text}"
            time.sleep(0.1)


def _is_of_attune(process: psutil.Process) -> bool:
    try:
        return "ATTUNE_ATTEMPT" in process.environ()
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
