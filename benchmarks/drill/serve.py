"""A control plane of the drill: what `attune serve` runs, with an engine that starts the drill's workers.

    python -m benchmarks.drill.serve --data-dir DIR --port PORT --locks LOCKS [--ray HOST:PORT --token-file FILE]

Everything else comes from the same `ATTUNE_*` settings. Real jobs get DeepSpeed's launcher and the trainer's preflight.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from benchmarks.drill.worker import command_line
from service.app import create_app
from service.jobs.preflight import trainer_preflight
from service.launchers.base import Capacity, Launcher, Run
from service.launchers.local import LocalLauncher, launcher_command
from service.logs import configure_logging
from service.server import Server
from service.settings import load_settings
from service.startup import open_store

_HERE = Path(__file__).parent


def is_real(job_dir: Path) -> bool:
    """Whether DeepSpeed is to train this job."""
    metadata = json.loads((job_dir / "spec.json").read_bytes())["metadata"]
    return bool(json.loads(metadata["script"])["real"])


def preflight_command(job_dir: Path) -> Sequence[str]:
    """The trainer's own preflight for real jobs."""
    if is_real(job_dir):
        return trainer_preflight(job_dir)
    return [sys.executable, str(_HERE / "worker.py"), "preflight", str(job_dir)]


def _attempt_command(run: Run, *, locks: Path, deepspeed: Sequence[str]) -> Sequence[str]:
    resume = ["--resume"] if run.resume else []
    program = [str(_HERE / "real_rank.py"), "--job-dir", str(run.job_dir), "--attempt", str(run.attempt), *resume]
    return command_line(
        job_dir=run.job_dir,
        attempt=run.attempt,
        locks=locks,
        placement=[(share.node, list(share.devices)) for share in run.placement],
        resume=run.resume,
        command=[*deepspeed, *program] if is_real(run.job_dir) else [],
    )


def make_launcher(given: argparse.Namespace) -> Launcher:
    """The local engine, or a Ray cluster's."""
    if given.ray is None:

        def command(run: Run, capacity: Capacity, port: int) -> Sequence[str]:
            deepspeed = launcher_command(run.devices, capacity, port)
            return _attempt_command(run, locks=given.locks, deepspeed=deepspeed)

        return LocalLauncher(cpu_slots=given.slots, worker_command=command)
    from service.launchers.ray.launcher import RayLauncher

    # As the node agent starts it; the parts in braces are known on the node alone.
    where = ["--world_info={world_info}", "--node_rank={node_rank}", "--master_addr={address}", "--master_port={port}"]
    deepspeed = [sys.executable, "-m", "deepspeed.launcher.launch", *where]
    return RayLauncher(
        address=given.ray,
        token_file=given.token_file,
        lost_after_s=20.0,
        command=lambda run: _attempt_command(run, locks=given.locks, deepspeed=deepspeed),
    )


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--locks", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument("--ray")
    parser.add_argument("--token-file", type=Path)
    given = parser.parse_args()
    configure_logging("text", level="info")
    settings = load_settings(data_dir=given.data_dir, port=given.port)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
        app = create_app(
            settings, store=open_store(settings), launcher=make_launcher(given), preflight_command=preflight_command
        )
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        Server(app, config, on_ready=lambda: print(os.getpid(), flush=True)).run(sockets=[listening])


if __name__ == "__main__":
    main()
