"""`attune transfer`: several models over several domains, as one table. Needs no service.

Fine-tuning runs each job as `attune train` does, one after another; the same command goes on where it was stopped.
"""

from __future__ import annotations

import json as json_module
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import train
from service.cli.exits import DONE, USAGE, CommandError
from service.cli.local_run import run_module
from service.cli.output import JsonOption, console, print_error, print_json, print_table
from trainer.job_dir import JobDir

_MODULE = "trainer.transfer.command"
_MODES = ("zero-shot", "features", "fine-tune")


def transfer(
    root: Annotated[Path, typer.Argument(help="Folder of domains: ROOT/DOMAIN/CLASS/IMAGE.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Folder for what comes out.", show_default=False)],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            metavar="[ROW=]MODEL,...",
            help="Models, comma-separated; can be repeated. RN50 and the like mean OpenAI's weights here. [default:"
            " OpenAI's nine]",
        ),
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="zero-shot, features or fine-tune.")] = "zero-shot",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Benchmark that names the domains and their order, such as PACS or OfficeHome."),
    ] = None,
    domains: Annotated[
        list[str] | None,
        typer.Option("--domains", help="Domains in order, comma-separated; can be repeated. [default: all folders]"),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--templates",
            help="Prompt template with one {}, or a published set; can be repeated. [default: a picture of a {}]",
        ),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option("--class-names", help="JSON mapping of class folder to the name in prompts.")
    ] = None,
    keep_underscores: Annotated[
        bool, typer.Option("--keep-underscores", help="Take folder names into prompts as they are, as the demo does.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")] = 64,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or amp_bf16, for measuring.")] = "fp32",
    leave_one_out: Annotated[
        bool,
        typer.Option("--leave-one-out", help="fine-tune: train on the other domains, test on the whole of this one."),
    ] = False,
    held_out: Annotated[
        float, typer.Option("--held-out", help="fine-tune: share of each class to validate on, and again to test on.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="fine-tune: seed of the split and of the jobs.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="fine-tune: change a field of the jobs' spec; repeatable."),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Compare models over domains: a row a model, a column a domain and the mean, as CSV, Markdown, JSON and PNG."""
    request: dict[str, Any] = {
        "root": str(root),
        "output": str(output),
        "mode": mode,
        "models": _listed(models),
        "dataset": dataset,
        "domains": _listed(domains),
        "class_names": str(class_names) if class_names else None,
        "keep_underscores": keep_underscores,
        "batch_size": batch_size,
        "precision": precision,
        "leave_one_out": leave_one_out,
        "held_out": held_out,
        "seed": seed,
        "overrides": overrides or [],
        **({"templates": templates} if templates else {}),
    }
    _check(request)
    if mode == "fine-tune":
        run_module(_MODULE, {**request, "step": "prepare"})
        if code := _train_all(output / "jobs.json", json=json):
            return code
    run_module(_MODULE, request)
    if mode != "features":
        _show(output / "results.json", json=json)
    return DONE


def _check(request: dict[str, Any]) -> None:
    for field, allowed in (("mode", _MODES), ("precision", ("fp32", "amp_bf16"))):
        if request[field] not in allowed:
            message = f"--{field} is {request[field]!r}; allowed: {', '.join(allowed)}"
            raise CommandError(message, code=USAGE)
    if not 0 < request["held_out"] < 0.5:
        raise CommandError(f"--held-out is {request['held_out']}; give a share above 0 and below 0.5", code=USAGE)
    given = {"--leave-one-out": request["leave_one_out"], "--set": request["overrides"]}
    if request["mode"] != "fine-tune" and (wrong := [option for option, value in given.items() if value]):
        raise CommandError(f"{' and '.join(wrong)}: only --mode fine-tune takes it", code=USAGE)


def _train_all(jobs: Path, *, json: bool) -> int:
    """Run the jobs that have not succeeded yet, and return the exit code of the first that does not."""
    listed = json_module.loads(jobs.read_text(encoding="utf-8"))["jobs"]
    for number, entry in enumerate(listed, start=1):
        job = JobDir(Path(entry["job_dir"]))
        if _succeeded(job):
            continue
        if not json:
            console.print(f"{number} of {len(listed)}: {entry['model']} on {entry['domain']}", markup=False)
        with redirect_stdout(sys.stderr) if json else nullcontext():  # stdout is for the table alone
            code = train.train(spec=Path(entry["spec"]), job_dir=job.path, resume=job.spec.exists(), json=json)
        if code != DONE:
            print_error(f"{entry['model']} on {entry['domain']} has not been trained; the same command goes on with it")
            return code
    return DONE


def _succeeded(job: JobDir) -> bool:
    ended = [record for attempt in job.attempts() if (record := attempt.read_exit()) is not None]
    return job.export.is_dir() and any(record.status == "succeeded" for record in ended)


def _show(results: Path, *, json: bool) -> None:
    document = json_module.loads(results.read_text(encoding="utf-8"))
    rows = document["tables"]["results"]
    if json:
        print_json(document)
        return
    shown = [[f"{100 * cell:.2f}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows]
    print_table(list(rows[0]), shown, title="top-1 %")
    console.print(f"table: {results.parent}/results.md, .csv, .png and .json", markup=False, soft_wrap=True)


def _listed(given: list[str] | None) -> list[str]:
    return [part.strip() for text in given or [] for part in text.split(",") if part.strip()]
