"""A Slurm cluster of several nodes on this machine, from Debian's packages `slurmctld slurmd slurm-client munge`.

Every node is a `slurmd -N NAME` with a port of its own. All state lies in one folder; nothing of the system is touched.
Needs root, as slurmd does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "mungekey", "sbatch", "squeue", "sinfo", "scontrol", "scancel")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
SchedulerType=sched/builtin
SchedulerParameters=default_queue_depth=100,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge=300
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Controller, key service and nodes."""

    def __init__(self, folder: Path, *, nodes: Sequence[str] = ("n1", "n2"), cpus: int = 2) -> None:
        self.folder = folder
        self.nodes = tuple(nodes)
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        host = socket.gethostname().partition(".")[0]
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} CPUs={cpus} "
            f"Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN"
            for name in nodes
        ]
        for name in ("state", *(f"spool-{node}" for node in nodes)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(host=f"{host}(127.0.0.1)", port=_free_port(), folder=folder, nodes="\n".join(lines))
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """Start everything and wait until all nodes are idle."""
        key = self.folder / "munge.key"
        subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True)
        files = [f"--{name}-file={self.folder / f'munge.{name}'}" for name in ("pid", "seed", "log")]
        munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket"]
        self._start("munged", [*munged, *files])
        self._await(lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", ["slurmctld", "-D", "-i"])
        for node in self.nodes:
            self.start_node(node)
        self._await(lambda: self.states() == dict.fromkeys(self.nodes, "idle"))

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        self._start(name, ["slurmd", "-D", "-N", name])

    def kill_node(self, name: str) -> None:
        """kill -9 a node's daemon; its jobs' step processes live on, as they do when it crashes."""
        self._processes.pop(name).kill()

    def restart_controller(self) -> None:
        """kill -9 the controller and start it again on its saved state."""
        process = self._processes.pop("slurmctld")
        process.kill()
        process.wait()
        self._start("slurmctld", ["slurmctld", "-D"])

    def states(self) -> dict[str, str]:
        """What `sinfo` says of each node."""
        command = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return dict(line.split() for line in done.stdout.splitlines() if line.strip())

    def stop(self) -> None:
        """Kill everything that belongs to the cluster, step daemons included."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait()
        for process in psutil.process_iter():
            try:
                belongs = str(self.folder) in " ".join((*process.cmdline(), *process.environ().values()))
            except psutil.Error:
                continue
            if belongs and process.pid != os.getpid() and process.name().startswith(("slurm", "munge")):
                process.kill()

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _await(self, condition, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"Slurm did not come up; see {self.folder}; nodes: {self.states()}"
            time.sleep(0.1)


def missing_programs() -> list[str]:
    """Programs that a cluster needs and this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
