"""`attune plan`: what a job would be, without weights, data or a GPU. Needs no service.

The structure of the model is made by a child process, `python -m trainer.plan`, as that takes torch.
"""

from __future__ import annotations

import json as json_module
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import USAGE, CommandError
from service.cli.output import JsonOption, console, print_fields, print_json, print_table
from service.cli.specs import RecipeOption, SetOption
from trainer.resolve import read_spec_file, resolve
from trainer.spec import JobSpec

_STEPS = re.compile(r"\d+(,\d+)*")
_GIBIBYTE = 2**30


def plan(
    spec: Annotated[
        Path | None, typer.Argument(help="YAML or JSON file with a job spec, or part of one.", show_default=False)
    ] = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    lr_at: Annotated[
        str | None,
        typer.Option("--lr-at", metavar="STEPS", help="Steps to tell the learning rate of, such as 0,499; from 0."),
    ] = None,
    num_train: Annotated[
        int | None, typer.Option("--num-train", min=1, help="Training images, in place of the data's own number.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", min=1, help="Classes, in place of the data's own number.")
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="GPUs, on all nodes together.")] = None,
    json: JsonOption = False,
) -> None:
    """Show a job's parameters, optimizer groups, steps, FLOPs and memory before running it."""
    if spec is None and recipe is None:
        raise CommandError("name a recipe with --recipe, or a file with a spec", code=USAGE)
    if lr_at is not None and not _STEPS.fullmatch(lr_at):
        raise CommandError(f"--lr-at {lr_at!r} is not a list of steps such as 0,499", code=USAGE)
    job = resolve(recipe=recipe, spec=read_spec_file(spec) if spec else {}, overrides=overrides or (), runnable=False)
    options = {"--num-train": num_train, "--num-classes": num_classes, "--devices": devices, "--lr-at": lr_at}
    made = _make(job, [word for name, value in options.items() if value is not None for word in (name, str(value))])
    if json:
        print_json(made)
    else:
        _print(made)


def _make(job: JobSpec, arguments: list[str]) -> dict[str, Any]:
    """Run the child and read its plan.

    Raises:
        CommandError: with what the child has to say against the job.
    """
    child = subprocess.run(
        [sys.executable, "-P", "-m", "trainer.plan", *arguments],
        input=job.model_dump_json(),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if child.returncode == USAGE:
        raise CommandError(child.stdout.strip() or child.stderr.strip(), code=USAGE)
    if child.returncode:
        raise CommandError(f"the plan could not be made:\n{child.stderr.strip()}")
    made: dict[str, Any] = json_module.loads(child.stdout)
    return made


def _print(plan: dict[str, Any]) -> None:
    data, schedule, compute = plan["data"], plan["schedule"], plan["compute"]
    print_fields(
        {
            "recipe": plan["recipe"],
            "model": plan["model"],
            "objective": plan["objective"],
            "training images": _count(data["num_train"], f" ({data['origin']})"),
            "image-template rows": _count(data["image_template_rows"]),
            "classes": data["num_classes"],
            "steps an epoch": _count(schedule["steps_per_epoch"]),
            "steps": _count(schedule["total_steps"]),
            "warm-up steps": _count(schedule["warmup_steps"]),
            "peak learning rate": f"{schedule['peak_lr']:g}",
            "training FLOPs an image": f"{compute['train_flops_per_image']:.4g}",
        }
    )
    console.print()
    print_table(("parameters", ""), ((name.replace("_", " "), f"{n:,}") for name, n in plan["parameters"].items()))
    console.print()
    _print_groups(plan["optimizer"])
    if schedule["lr_at"]:
        console.print()
        print_table(("step", "learning rate"), ((step, f"{lr:.10g}") for step, lr in schedule["lr_at"].items()))
    console.print()
    conventions = compute["conventions"].items()
    rows = ((name, _count(count["forward_macs_per_image"]), count["counted"]) for name, count in conventions)
    print_table(("convention", "multiply-adds an image", "counts"), rows)
    console.print()
    _print_memory(plan["memory"])
    for note in plan["notes"]:
        console.print(f"\nNote: {note}.", markup=False)


def _print_groups(optimizer: dict[str, Any]) -> None:
    keys = ("layer_id", "lr_scale", "weight_decay", "num_parameters")
    rows = (
        [group["layer_id"], f"{group['lr_scale']:.10g}", *(group[key] for key in keys[2:])]
        for group in optimizer["groups"]
    )
    print_table(("layer", "lr scale", "weight decay", "parameters"), rows, title=f"{optimizer['name']}, by group")


def _print_memory(memory: dict[str, Any]) -> None:
    parts = ("weights", "gradients", "optimizer", "ema", "activations", "inputs", "buffers", "total", "host")
    rows = (
        (
            f"{stage} (this job)" if int(stage) == memory["zero_stage"] else stage,
            *(_gibibytes(row[part]) for part in parts),
        )
        for stage, row in memory["stages"].items()
    )
    where = f"GiB on each of {memory['devices']} devices"
    title = f"{where}, {memory['micro_size']} samples a forward pass, {memory['precision']}"
    print_table(("ZeRO stage", *parts), rows, title=title)


def _gibibytes(number: int) -> str:
    return f"{number / _GIBIBYTE:.2f}"


def _count(number: int | None, more: str = "") -> str | None:
    return None if number is None else f"{number:,}{more}"
