"""The `attune` command: start the service, run jobs with or without it, and ask models."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from service.cli import (
    administration,
    ask,
    data,
    data_bench,
    db,
    demo,
    evaluate,
    exits,
    files,
    interpolate,
    jobs,
    models,
    plan,
    predict,
    prompts,
    recipes,
    retention,
    serve,
    sweep,
    train,
    transfer,
    webhooks,
)

app = typer.Typer(
    name="attune",
    help="Fine-tune CLIP-family models as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Commands that ask a service read ATTUNE_URL, its address; ATTUNE_API_KEY, the key that it asks for; and "
    "ATTUNE_PROJECT, where an operator acts. ATTUNE_DEBUG=1 adds tracebacks to errors.",
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.add_typer(jobs.app, name="jobs")
app.add_typer(files.app, name="files")
app.add_typer(models.app, name="models")
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("interpolate")(interpolate.interpolate)
app.command("fisher")(interpolate.fisher)
app.command("classify")(ask.classify)
app.command("features")(ask.features)
app.command("transfer")(transfer.transfer)
data.app.command("bench")(data_bench.bench)
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.add_typer(sweep.app, name="sweep")
app.add_typer(prompts.app, name="prompts")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(db.app, name="db")
app.command("retention")(retention.retention)
app.add_typer(administration.keys, name="keys")
app.add_typer(administration.projects, name="projects")
app.command("audit")(administration.audit)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("attune-clip"))
        raise typer.Exit


@app.callback()
def _attune(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune CLIP-family models as a service."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `service.cli.exits`)."""
    try:
        code = app(args=arguments, prog_name="attune", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return exits.STOPPED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output, such as `head`, has gone: nothing more to say to anybody
        return exits.DONE
    except Exception as error:
        return exits.report(error)
    return int(code or exits.DONE)


def main() -> None:
    """The console script."""
    sys.exit(run())
