"""`attune models`: the models that the service can be asked with."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.output import DEFAULT_URL, JsonOption, UrlOption, age, console, print_fields, print_json, print_table
from service.client import AttuneClient

app = typer.Typer(help="Registered models.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The model's name, such as ft:ViT-B-16:flowers:1f0c9a3e.")]


@app.command("list")
def list_models(json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """List all registered models, newest first."""
    with AttuneClient(url) as client:
        models = client.models()
    if json:
        print_json(models)
        return
    rows = ((m["id"], m["task"], m["job"], m["metrics"], age(m["created"])) for m in models)
    print_table(("model", "task", "job", "metrics", "made"), rows)


@app.command("show")
def show(name: NameArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Show one model: its metrics, classes, templates and folder."""
    with AttuneClient(url) as client:
        model = client.model(name)
    if json:
        print_json(model)
    else:
        print_fields({**model, "object": None, "created": age(model["created"])})


@app.command("delete")
def delete(name: NameArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Take a model off the register. Its export folder stays where it is."""
    with AttuneClient(url) as client:
        answer = client.delete_model(name)
    if json:
        print_json(answer)
    else:
        console.print(f"{name} is no longer registered; its files are untouched", markup=False, soft_wrap=True)
