"""`attune sweep submit|status|results|cancel`: sweeps that the service runs.

`submit` takes what `attune sweep run` takes, the name of a shipped sweep or a YAML file of that form, or a YAML file
with the body of `POST /v1/fine_tuning/sweeps`: it has a `job`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import MISSING, CommandError
from service.cli.output import DEFAULT_URL, JsonOption, UrlOption, console, print_fields, print_json, print_table
from service.cli.specs import SetOption, partial_spec_for_service
from service.client import AttuneClient
from trainer.recipes.sweeps import Sweep, UnknownSweep, find_sweep
from trainer.resolve import read_spec_file, with_overrides

SweepId = Annotated[str, typer.Argument(help="The sweep's id, such as sweep-8c1f...", metavar="SWEEP_ID")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `attune sweep`."""
    app.command("submit")(submit)
    app.command("status")(status)
    app.command("results")(results)
    app.command("cancel")(cancel)


def submit(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A shipped sweep, or a YAML file.")],
    overrides: SetOption = None,
    max_parallel: Annotated[
        int | None, typer.Option("--max-parallel", min=1, help="Trials at once.", show_default=False)
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Have the service run a sweep. Relative paths in it are taken from the current folder."""
    request = _request(name, overrides)
    if max_parallel is not None:
        request["max_parallel"] = max_parallel
    with AttuneClient(url) as client:
        sweep = client.create_sweep(request)
    if json:
        print_json(sweep)
        return
    count = sweep["trial_counts"]["total"]
    text = f"{sweep['id']} has {count} trials; look at it: attune sweep status {sweep['id']}"
    console.print(text, markup=False, soft_wrap=True)


def status(sweep_id: SweepId, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Show where a sweep of the service stands."""
    with AttuneClient(url) as client:
        sweep = client.sweep(sweep_id)
    if json:
        print_json(sweep)
        return
    shown = {name: sweep[name] for name in ("id", "name", "status", "metric", "goal")}
    print_fields({**shown, "trials": sweep["trial_counts"], "best": sweep["best"], "error": sweep["error"]})


def results(
    sweep_id: SweepId,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write comma-separated values.")] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Show the trials of a sweep of the service, a row each, the best first."""
    with AttuneClient(url) as client:
        found = client.sweep_results(sweep_id)
    if json:
        print_json(found)
        return
    fields = list(dict.fromkeys(field for row in found["data"] for field in row["parameters"]))
    heads = ("rank", "trial", *fields, found["metric"], "status", "job", "note")
    rows = [_row(row, fields) for row in sorted(found["data"], key=lambda row: (row["rank"] or 10**9, row["trial"]))]
    if as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([heads, *rows])
    else:
        print_table(heads, rows)


def cancel(sweep_id: SweepId, url: UrlOption = DEFAULT_URL) -> None:
    """End a sweep of the service, and cancel its jobs."""
    with AttuneClient(url) as client:
        sweep = client.cancel_sweep(sweep_id)
    console.print(f"{sweep['id']} is {sweep['status']}", markup=False)


def _row(row: dict[str, Any], fields: list[str]) -> tuple[Any, ...]:
    settings = [row["parameters"].get(field) for field in fields]
    return (row["rank"], row["trial"], *settings, row["value"], row["status"], row["job_id"], row["note"])


def _request(name: str, overrides: list[str] | None) -> dict[str, Any]:
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        content = read_spec_file(Path(name))
        if "job" in content:
            job = dict(content["job"])
            job["spec"] = {**(job.get("spec") or {}), **partial_spec_for_service(None, None, overrides)}
            return {**content, "job": job}
    try:
        sweep = find_sweep(name)
    except UnknownSweep as error:
        raise CommandError(str(error), code=MISSING) from None
    return _from_file(sweep, Path(name).stem, overrides)


def _from_file(sweep: Sweep, name: str, overrides: list[str] | None) -> dict[str, Any]:
    """A sweep of listed trials: the file's own, in its order."""
    common = with_overrides({}, [f"{field}={_yaml(value)}" for field, value in sweep.set.items()])
    given = partial_spec_for_service(None, sweep.recipe, overrides)
    spec = {**common, **{k: v for k, v in given.items() if k != "recipe"}}
    for section in common.keys() & given.keys():
        if isinstance(common[section], dict) and isinstance(given[section], dict):
            spec[section] = {**common[section], **given[section]}
    trials = [dict(trial.set) for trial in sweep.all_trials()]
    return {"name": name, "job": {"recipe": sweep.recipe, "spec": spec}, "trials": trials, "metric": sweep.metric}


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value)
