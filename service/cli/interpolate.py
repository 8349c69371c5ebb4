"""`attune interpolate` and `attune fisher`: models between a start and what was tuned from it. Need no service."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.exits import DONE, USAGE, CommandError
from service.cli.local_run import run_module
from service.cli.output import JsonOption, console, print_json, print_table
from trainer.interpolate.points import alpha_name
from trainer.interpolate.request import Fisher, Interpolate
from trainer.resolve import told_once

_MODULE = "trainer.interpolate.command"

_ModelArgument = Annotated[str, typer.Argument(help="Folder of an export.", show_default=False)]
_TemplatesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--templates", help="Prompt template with one {}, or a published set; can be repeated. [default: the model's]"
    ),
]


def interpolate(
    start: Annotated[
        str,
        typer.Argument(
            help="Folder of an export, or a model's name: it gets the head that the tuned one's job gave it.",
            show_default=False,
        ),
    ],
    tuned: _ModelArgument,
    output: Annotated[Path, typer.Option("--output", help="Folder for what comes out.", show_default=False)],
    alpha: Annotated[
        list[str],
        typer.Option("--alpha", metavar="A,B,...", help="Points from 0 (start) to 1 (tuned); can be repeated."),
    ] = ["0.5"],  # noqa: B006 - typer copies it
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="[NAME=]PATH", help="Measure each point on these images; can be repeated."),
    ] = None,
    in_distribution: Annotated[
        str | None, typer.Option("--in-distribution", metavar="NAME", help="The data set that is not shifted.")
    ] = None,
    choose: Annotated[
        str | None, typer.Option("--choose", metavar="best|A", help="Keep one point: the best in distribution, or A.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What the curve shows. [default: top1, or mean_recall on captions]")
    ] = None,
    templates: _TemplatesOption = None,
    fisher: Annotated[
        str | None,
        typer.Option("--fisher", metavar="START,TUNED", help="Weigh by Fisher information: folders by attune fisher."),
    ] = None,
    fisher_floor: Annotated[float, typer.Option("--fisher-floor", help="Least Fisher information of a weight.")] = 1e-8,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")] = 64,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or amp_bf16, for measuring.")] = "fp32",
    json: JsonOption = False,
) -> int:
    """Average a model with the one it started from (WiSE-FT), measure every point, and keep all or the best."""
    request: dict[str, Any] = {
        "command": "interpolate",
        "start": start,
        "tuned": tuned,
        "alphas": [_number(word, option="--alpha") for text in alpha for word in text.split(",")],
        "output": str(output),
        "data": data or [],
        "in_distribution": in_distribution,
        "metric": metric,
        "choose": choose if choose in (None, "best") else _number(choose, option="--choose"),
        "templates": templates or [],
        "fisher": None if fisher is None else fisher.split(","),
        "fisher_floor": fisher_floor,
        "batch_size": batch_size,
        "precision": precision,
    }
    settled = _checked(Interpolate, request)
    run_module(_MODULE, request)
    _show(settled, output, json=json)
    return DONE


def fisher(
    model: _ModelArgument,
    data: Annotated[str, typer.Option("--data", metavar="PATH", help="Labelled images.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Folder for what comes out.", show_default=False)],
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Images, spread over the data. [default: all]")
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", help="sampled from the prediction, predicted (the likeliest), or true.")
    ] = "sampled",
    templates: _TemplatesOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the labels that are drawn.")] = 0,
) -> int:
    """Estimate how much each weight of a model matters (diagonal Fisher information), for interpolate --fisher."""
    request: dict[str, Any] = {
        "command": "fisher",
        "model": model,
        "data": data,
        "output": str(output),
        "num_samples": num_samples,
        "labels": labels,
        "templates": templates or [],
        "seed": seed,
    }
    _checked(Fisher, request)
    run_module(_MODULE, request)
    console.print(f"Fisher information: {output}", markup=False, soft_wrap=True)
    return DONE


def _number(text: str, *, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CommandError(f"{option} is {text!r}; give numbers from 0 to 1", code=USAGE) from None


def _checked(kind: type[Interpolate] | type[Fisher], request: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(request)
    except ValidationError as error:
        told = [(".".join(map(str, e["loc"])), e["msg"], e["input"]) for e in told_once(error)]
        lines = [f"{place}: {message}, got {given!r}" if place else message for place, message, given in told]
        raise CommandError("\n".join(lines), code=USAGE) from None


def _show(request: Interpolate, output: Path, *, json: bool) -> None:
    if not request.data:
        folders = [str(output / alpha_name(alpha)) for alpha in sorted(set(request.points))]
        if json:
            print_json({"models": folders})
        else:
            console.print("\n".join(folders), markup=False, soft_wrap=True)
        return
    document = json_module.loads((output / "curve.json").read_text(encoding="utf-8"))
    if json:
        print_json(document)
        return
    rows = [
        [f"{row['alpha']:.3f}", *(f"{100 * value:.2f}" for value in row["shown"].values())]
        for row in document["points"]
    ]
    heads = list(document["points"][0]["shown"])
    chosen = document["exported_alpha"]
    title = f"{document['metric']} %" + ("" if chosen is None else f", kept: {chosen:g}")
    print_table(["alpha", *heads], rows, title=title)
    console.print(f"curve: {output}/curve.md, .csv, .png and .json", markup=False, soft_wrap=True)
