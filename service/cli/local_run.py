"""Runs a module of the trainer on this machine without the service: one process with torch, on the first device.

The request goes to it as JSON in its one argument; what it has to say to people goes to stderr.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from service.cli.attempts import ForegroundRun
from service.cli.exits import STOPPED, CommandError


def run_module(module: str, request: Mapping[str, Any]) -> None:
    """Run `python -m MODULE REQUEST` and wait for it. Ctrl-C ends it and this command.

    Raises:
        CommandError: it failed; what is wrong, it has said.
        typer.Exit: it was stopped.
    """
    # Not at the top: NVML matters to these commands alone.
    from service.launchers.base import Run, on_this_machine
    from service.launchers.local import LocalLauncher

    launcher = LocalLauncher(cpu_slots=1)
    capacity = launcher.capacity()
    with tempfile.TemporaryDirectory(prefix="attune-") as folder:
        environment = launcher.environment(
            Run(job_id=module, attempt=1, job_dir=Path(folder), placement=on_this_machine(capacity.devices[:1]))
        )
        environment["CUDA_VISIBLE_DEVICES"] = str(capacity.devices[0]) if capacity.kind == "gpu" else ""
        command = [sys.executable, "-P", "-m", module, json.dumps(dict(request))]
        foreground = ForegroundRun(command, tag=f"{module}/{folder}", environment=environment)
        code = foreground.run(ranks=list, output_to_stderr=True)
    if foreground.stop_requested:
        raise typer.Exit(STOPPED)
    if code > 0:
        raise typer.Exit(code)
    if code < 0:
        raise CommandError(f"{module} was ended by signal {-code}; what it wrote above says more")
