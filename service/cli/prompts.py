"""`attune prompts`: published prompt templates and class names. They come with the package: no service is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.exits import MISSING, CommandError
from service.cli.output import JsonOption, console, print_json, print_table
from trainer.prompts import ALIASES, published_class_names, published_sets
from trainer.resolve import near

app = typer.Typer(help="Published prompt templates and class names.", no_args_is_help=True)


@app.command("list")
def list_sets(json: JsonOption = False) -> None:
    """List the sets, for --templates and data.templates."""
    sets, classes = published_sets(), published_class_names()
    rows = [(name, len(sets[name]), len(classes.get(name, ())) or None, ALIASES.get(name)) for name in sorted(sets)]
    if json:
        keys = ("name", "num_templates", "num_classes", "same_as")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        print_table(("set", "templates", "classes", "same as"), rows)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The set's name.")],
    classes: Annotated[
        bool, typer.Option("--classes", help="Class names in place of templates, a line each, as --class-names reads.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show a set's templates, or the class names of its data set, a line each."""
    known = published_class_names() if classes else published_sets()
    if name not in known:
        what = "published class names for" if classes else "template set"
        message = f"there is no {what} {name!r}.{near(name, list(known))} Known: {', '.join(sorted(known))}"
        raise CommandError(message, code=MISSING)
    if json:
        print_json(list(known[name]))
        return
    for line in known[name]:
        console.out(line, highlight=False)
