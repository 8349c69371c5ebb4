"""`attune recipes`: the named starting points for a job. They come with the package: no service is needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
import yaml

from service.cli.exits import MISSING, CommandError
from service.cli.output import JsonOption, console, print_fields, print_json, print_table
from trainer.recipes import RECIPES, Recipe
from trainer.resolve import near

app = typer.Typer(help="Named starting points for a job.", no_args_is_help=True)


@app.command("list")
def list_recipes(json: JsonOption = False) -> None:
    """List all recipes."""
    if json:
        print_json([_about(recipe) for recipe in RECIPES.values()])
    else:
        print_table(("recipe", "what it does"), ((recipe.name, recipe.summary) for recipe in RECIPES.values()))


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="The recipe's name.")], json: JsonOption = False) -> None:
    """Show where a recipe comes from, and the spec that it makes."""
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise CommandError(f"there is no recipe {name!r}.{near(name, list(RECIPES))} Recipes: {known}", code=MISSING)
    recipe = RECIPES[name]
    spec = recipe.build().model_dump(mode="json")
    if json:
        print_json({**_about(recipe), "spec": spec})
        return
    _print_recipe(recipe)
    console.out(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), end="", highlight=False)


def _print_recipe(recipe: Recipe) -> None:
    about = _about(recipe)
    notes, command, data = about.pop("notes"), about.pop("command"), recipe.dataset
    if data is not None:
        classes = f", {data.num_classes} classes" if data.num_classes else ""
        about["dataset"] = f"{data.name}: {data.num_train:,} samples{classes}; devices in the source: {data.devices}"
    print_fields(about)
    if notes:
        console.print("\n[bold]notes[/bold]")
        for note in notes:
            console.print(f"- {note}", markup=False)
    console.print("\n[bold]command[/bold]")
    console.print(command, markup=False, soft_wrap=True)
    console.print("\n[bold]spec[/bold]")


def _about(recipe: Recipe) -> dict[str, Any]:
    """Everything but the spec."""
    return {name: value for name, value in asdict(recipe).items() if name != "build"}
