"""`attune sweep`: a recipe over several settings and seeds, one job after another on this machine. Needs no service,
but for `submit`, `status`, `results` and `cancel` (`service.cli.service_sweeps`).

Writes into the sweep's folder, and goes on where it stopped when it is run again:

    trials/TRIAL/seed-N/    job folders, as `attune train` makes them
    results.json .csv .md   a row a trial: the published value, mean and standard deviation over the seeds
"""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import service_sweeps
from service.cli.exits import DONE, FAILED, INTERRUPTED, MISSING, USAGE, CommandError
from service.cli.output import JsonOption, console, error_console, print_error, print_fields, print_json, print_table
from service.cli.specs import SetOption
from service.cli.train import run_job
from trainer.evaluation.tables import Table
from trainer.job_dir import JobDir, folder_problem
from trainer.recipes.sweeps import (
    PlannedRun,
    Sweep,
    UnknownSweep,
    expand,
    find_sweep,
    finished_run,
    shipped_sweeps,
    sweep_table,
    write_results,
)

app = typer.Typer(help="A recipe over several settings and seeds.", no_args_is_help=True)
service_sweeps.add_to(app)

SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="Name of a sweep that comes with Attune, or a YAML file.")
]
RepeatsOption = Annotated[int, typer.Option("--repeats", min=1, help="Jobs a trial, each with a seed of its own.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="The sweep's folder. [default: sweeps/NAME]", show_default=False)
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="DATASET/METRIC", help="What to compare in place of the sweep's own; repeatable."),
]


@app.command("list")
def list_sweeps(json: JsonOption = False) -> None:
    """List the sweeps that come with Attune."""
    sweeps = shipped_sweeps()
    if json:
        print_json([{"name": name, **sweep.model_dump(mode="json")} for name, sweep in sweeps.items()])
        return
    rows = ((name, sweep.recipe, len(sweep.all_trials()), sweep.summary) for name, sweep in sweeps.items())
    print_table(("sweep", "recipe", "trials", "what it varies"), rows)


@app.command("show")
def show(name: SweepArgument, json: JsonOption = False) -> None:
    """Show a sweep's trials with their published values."""
    sweep = _sweep(name)
    if json:
        print_json({"name": name, **sweep.model_dump(mode="json")})
        return
    print_fields(_about(sweep))
    rows = ((t.folder_name, _settings(t.set), t.published, t.note) for t in sweep.all_trials())
    print_table(("trial", "settings", "published %", "note"), rows)


@app.command("plan")
def plan(
    name: SweepArgument,
    overrides: SetOption = None,
    repeats: RepeatsOption = 1,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """Check every trial's spec and list the jobs that `run` would do, without data or a GPU."""
    sweep = _sweep(name)
    runs = expand(sweep, overrides=overrides or (), repeats=repeats, runnable=False)
    folder = _folder(name, output)
    rows = [(r.trial.folder_name, r.seed, _settings(r.trial.set), _state(folder, r)) for r in runs]
    if json:
        jobs = [
            {"trial": trial, "seed": seed, "state": state, "spec": run.spec.model_dump(mode="json")}
            for (trial, seed, _, state), run in zip(rows, runs, strict=True)
        ]
        print_json({"sweep": name, "folder": str(folder), "jobs": jobs})
        return
    print_table(("trial", "seed", "settings", "state"), rows, title=f"{len(runs)} jobs in {folder}")


@app.command("run")
def run(
    name: SweepArgument,
    overrides: SetOption = None,
    repeats: RepeatsOption = 1,
    output: OutputOption = None,
    metrics: MetricOption = None,
    json: JsonOption = False,
) -> int:
    """Run the jobs that have not succeeded yet, one after another, and write the table. Ctrl-C exits with code 75."""
    sweep = _sweep(name)
    folder = _folder(name, output)
    runs = expand(sweep, overrides=overrides or (), repeats=repeats)
    _refuse_unmeasured(metrics or (sweep.metric,), runs)
    _refuse_another_sweep(folder, runs)
    failures = []
    for number, planned in enumerate(runs, start=1):
        job = JobDir(folder / planned.folder)
        if finished_run(job, planned) is None:
            error_console.print(f"job {number} of {len(runs)}: {planned.folder}", markup=False)
            failures += _failure(job, planned)
            _write(folder, sweep, runs, metrics=metrics or ())
    _show(_write(folder, sweep, runs, metrics=metrics or ()), folder, json=json)
    for failure in failures:
        print_error(failure)
    return FAILED if failures else DONE


def _sweep(name: str) -> Sweep:
    try:
        return find_sweep(name)
    except UnknownSweep as error:
        raise CommandError(str(error), code=MISSING) from None


def _failure(job: JobDir, planned: PlannedRun) -> list[str]:
    """Run one job, from its latest checkpoint if there is one; says what failed, if anything did.

    Raises:
        CommandError: it was interrupted, or its spec or data are unusable, as the next one's would be.
    """
    ended, stop_requested = run_job(job, planned.spec, resume=bool(job.published_checkpoints()), output_to_stderr=True)
    if stop_requested or (ended is not None and ended.status == "interrupted"):
        raise CommandError("interrupted; the same command goes on", code=INTERRUPTED)
    if ended is None:
        return [f"{planned.folder}: the workers died without a word"]
    if ended.reason in ("bad_spec", "bad_data"):
        raise CommandError(f"{planned.folder}: {ended.message}", code=USAGE)
    return [] if ended.status == "succeeded" else [f"{planned.folder}: {ended.message}"]


def _refuse_unmeasured(metrics: Sequence[str], runs: Sequence[PlannedRun]) -> None:
    """Refuse a metric on data that no job has, before the first one has run for hours."""
    for metric in metrics:
        dataset = metric.partition("/")[0]
        for data in (planned.spec.data for planned in runs):
            if dataset not in data.evaluate and (dataset != "validation" or data.validation is None):
                field = "data.validation" if dataset == "validation" else f"data.evaluate.{dataset}"
                message = f"the sweep compares {metric}, and there is no such data set; name {field}"
                raise CommandError(f"{message}, or another --metric", code=USAGE)


def _refuse_another_sweep(folder: Path, runs: Sequence[PlannedRun]) -> None:
    for planned in runs:
        if problem := folder_problem(JobDir(folder / planned.folder), spec=planned.spec, resume=True):
            raise CommandError(f"{problem.partition(';')[0]}; give this sweep another --output", code=USAGE)


def _write(folder: Path, sweep: Sweep, runs: Sequence[PlannedRun], *, metrics: Sequence[str]) -> Table:
    finished = [made for made in (finished_run(JobDir(folder / run.folder), run) for run in runs) if made]
    table = sweep_table(sweep, finished, metrics=metrics)
    write_results(folder, sweep, finished, table=table)
    return table


def _show(table: Table, folder: Path, *, json: bool) -> None:
    if json:
        print_json({"folder": str(folder), "table": table.to_json()})
        return
    print_table(table.heads, table.shown())
    console.print(f"results: {folder}", markup=False, soft_wrap=True)


def _folder(name: str, output: Path | None) -> Path:
    return (output or Path("sweeps") / Path(name).stem).resolve()


def _state(folder: Path, planned: PlannedRun) -> str:
    job = JobDir(folder / planned.folder)
    if finished_run(job, planned) is not None:
        return "done"
    return "started" if job.attempts() else "to do"


def _settings(changes: dict[str, Any]) -> str:
    """The changes as `--set` takes them, a line each."""
    return "\n".join(f"{field}={json_module.dumps(value)}" for field, value in changes.items())


def _about(sweep: Sweep) -> dict[str, Any]:
    about = {"summary": sweep.summary, "source": sweep.source, "recipe": sweep.recipe, "metric": sweep.metric}
    return {**about, "for all trials": _settings(sweep.set)}
