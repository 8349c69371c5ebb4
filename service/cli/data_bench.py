"""`attune data bench`: how fast data come, stage by stage, and how fast a model takes them. Needs no service.

The work is done by a child process, `python -m trainer.data_bench`, as it takes torch and DALI.
"""

from __future__ import annotations

import json as json_module
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.data import SourcesArgument, data_meant, show_answer
from service.cli.exits import DONE, USAGE, CommandError
from service.cli.output import JsonOption, print_json
from service.cli.specs import RecipeOption, SetOption, SpecOption

_MODULE = "trainer.data_bench"


def bench(
    sources: SourcesArgument = None,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model to feed. [default: the spec's, or ViT-B-32]", show_default=False),
    ] = None,
    num_samples: Annotated[int, typer.Option("--num-samples", min=1, help="Images to time of each data set.")] = 48,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Decoder threads a device. [default: the spec's, or by the machine]"),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run the model here, in place of an estimate. [default: without a GPU]")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="With --measure: images a forward pass.")] = 32,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="Devices that share the cores. [default: the spec's, or all GPUs]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="GPU to estimate for, such as H200. [default: this machine's]")
    ] = None,
    mfu: Annotated[float, typer.Option("--mfu", help="Share of the GPU's peak that training reaches.")] = 0.4,
    json: JsonOption = False,
) -> int:
    """Time reading, decoding, resizing and augmenting on some images, and compare with what a model takes."""
    if not 0 < mfu <= 1:
        raise CommandError(f"--mfu is {mfu}; give a share above 0 and up to 1", code=USAGE)
    if measure and device is not None:
        raise CommandError("--device is for estimates; --measure runs the model on this machine", code=USAGE)
    request = {
        **data_meant(sources, spec, recipe, overrides),
        "model": model,
        "num_samples": num_samples,
        "num_threads": threads,
        "measure_model": measure,
        "batch_size": batch_size,
        "devices": devices,
        "device_name": device,
        "mfu": mfu,
    }
    answer = _answer(request)
    if json:
        print_json(answer["document"])
    else:
        show_answer(answer)
    return DONE


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the child on the first device, with all of this machine's cores.

    Raises:
        CommandError: it failed without a word; otherwise it has said what is wrong.
    """
    # Not at the top: NVML matters to this command alone.
    from service.launchers.base import Run, on_this_machine
    from service.launchers.local import LocalLauncher

    launcher = LocalLauncher(cpu_slots=1)
    capacity = launcher.capacity()
    with tempfile.TemporaryDirectory(prefix="attune-bench-") as folder:
        run = Run(job_id="bench", attempt=1, job_dir=Path(folder), placement=on_this_machine(capacity.devices[:1]))
        environment = launcher.environment(run)
        environment["CUDA_VISIBLE_DEVICES"] = str(capacity.devices[0]) if capacity.kind == "gpu" else ""
        child = subprocess.run(
            [sys.executable, "-P", "-m", _MODULE, "-"],  # not as an argument, which is limited and seen by all
            input=json_module.dumps(request),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
    if child.returncode < 0:
        raise CommandError(f"{_MODULE} was ended by signal {-child.returncode}")
    if child.returncode:
        raise typer.Exit(child.returncode)
    answer: dict[str, Any] = json_module.loads(child.stdout)
    return answer
