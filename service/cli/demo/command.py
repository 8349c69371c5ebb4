"""The command itself: options, the output folder, and an end without leftovers whatever happens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from service.cli.exits import USAGE, CommandError
from service.cli.output import JsonOption

_DATABASE = "attune.db"


def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for all that it writes.")] = Path("demo-output"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 0,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the service up at the end, until Ctrl-C.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Train, evaluate and query a small CLIP on handwritten digits, through the real service."""
    # Not at the top: scikit-learn takes a second to import, which other commands must not pay for.
    from service.cli.demo.processes import DemoProcesses, processes_serving
    from service.cli.demo.story import tell

    output = output.resolve()
    data_dir = output / "service"
    _clear(data_dir, serving=processes_serving(data_dir))
    with DemoProcesses(data_dir, log=output / "service.log") as processes:
        return tell(processes, output=output, port=port, keep_serving=keep_serving, json=json)


def _clear(data_dir: Path, *, serving: list[int]) -> None:
    """Remove what an earlier demo left, so that this one does not go on with its jobs."""
    if serving:
        message = f"a demo still runs in {data_dir} (process {serving[0]}); end it, or give another --output"
        raise CommandError(message, code=USAGE)
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        return
    if any(data_dir.iterdir()) and not (data_dir / _DATABASE).exists():
        raise CommandError(f"{data_dir} holds something that is not from a demo; give another --output", code=USAGE)
    shutil.rmtree(data_dir)
    data_dir.mkdir()
