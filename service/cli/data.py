"""`attune data`: look at data, check them, and bring them into the form that training reads. Needs no service.

The work is done by a child process, `python -m trainer.data_tools`, as it takes NumPy, Pillow and at times a tokenizer.
"""

from __future__ import annotations

import json as json_module
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import DONE, FAILED, USAGE, CommandError
from service.cli.output import JsonOption, console, print_json, print_table
from service.cli.specs import RecipeOption, SetOption, SpecOption, spec_given

app = typer.Typer(help="Inspect, validate, stage, convert, split and time data.", no_args_is_help=True)

_MODULE = "trainer.data_tools"
_SPEC_ENDINGS = (".yaml", ".yml")

SourcesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[[NAME=]SOURCE]...",
        help="A path, a {yaml mapping} with a source's fields as in a spec, or a spec.yaml whose data are meant.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--num-threads", min=1, help="Images at a time. [default: by the machine]")
]
NearOption = Annotated[
    int, typer.Option("--near", min=0, max=7, help="Bits of 64 in which hashes of near copies may differ.")
]


@app.command("inspect")
def inspect(
    sources: SourcesArgument = None,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    num_samples: Annotated[int, typer.Option("--samples", min=1, help="Samples to show of each data set.")] = 5,
    json: JsonOption = False,
) -> int:
    """List data without decoding: counts, classes, captions, a few headers, and the lines for a spec."""
    request = {**data_meant(sources, spec, recipe, overrides), "command": "inspect", "num_samples": num_samples}
    return _run(request, json=json)


@app.command("validate")
def validate(
    sources: SourcesArgument = None,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="[NAME=]SOURCE", help="Look for copies in these data too; can be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for report.md, report.json, CSV tables and contact-sheet.png."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            "--journal", help="Folder that remembers what was looked at, to go on from. [default: OUTPUT/journal]"
        ),
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option("--quarantine", help="File for the names of images that cannot be used, one a line.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model whose tokenizer counts captions. [default: the spec's, or CLIP's with 77]"),
    ] = None,
    exif: Annotated[
        str | None,
        typer.Option("--exif", help="ignore or apply the EXIF orientation. [default: the spec's, or ignore]"),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", min=1, help="A larger image cannot be used. [default: 178956970]")
    ] = None,
    near: NearOption = 4,
    no_near: Annotated[bool, typer.Option("--no-near", help="Look for exact copies only.")] = False,
    few: Annotated[int, typer.Option("--few", min=0, help="Name classes with fewer images.")] = 10,
    strict: Annotated[
        bool, typer.Option("--strict", help="Images that decode although their data are damaged count as bad.")
    ] = False,
    num_threads: ThreadsOption = None,
    json: JsonOption = False,
) -> int:
    """Decode every image and look for copies, within data sets and across.

    Exit code 1: some images cannot be used, or exact copies of some are in two data sets.
    """
    if exif not in (None, "ignore", "apply"):
        raise CommandError(f"--exif is {exif!r}; allowed: ignore, apply", code=USAGE)
    request = {
        **data_meant(sources, spec, recipe, overrides),
        "command": "validate",
        "against": against or [],
        "output": _text(output),
        "journal": _text(journal),
        "quarantine": _text(quarantine),
        "model": model,
        "exif": exif,
        **({} if max_pixels is None else {"max_pixels": max_pixels}),
        "near": None if no_near else near,
        "few": few,
        "strict": strict,
        "num_threads": num_threads,
    }
    return _run(request, json=json)


@app.command("stage")
def stage(
    sources: SourcesArgument = None,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for tar shards. [default: fill the local cache]")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="The local cache. [default: the spec's, ATTUNE_CACHE or ~/.cache/attune]"),
    ] = None,
    num_threads: ThreadsOption = None,
    json: JsonOption = False,
) -> int:
    """Bring data onto a fast local disk before training: remote files into the cache, or everything into shards."""
    request = {
        **data_meant(sources, spec, recipe, overrides),
        "command": "stage",
        "output": _text(output),
        "cache_folder": _text(cache),
        "num_threads": num_threads,
    }
    return _run(request, json=json)


@app.command("convert")
def convert(
    to: Annotated[str, typer.Option("--to", help="webdataset, image_folder, csv or parquet.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="An empty folder.", show_default=False)],
    sources: SourcesArgument = None,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    leave_images: Annotated[
        bool, typer.Option("--leave-images", help="csv: refer to the images where they are, in place of copies.")
    ] = False,
    num_threads: ThreadsOption = None,
    json: JsonOption = False,
) -> int:
    """Write data in another format; images keep their bytes. The same command goes on where it was stopped."""
    if to not in ("webdataset", "image_folder", "csv", "parquet"):
        raise CommandError(f"--to is {to!r}; allowed: webdataset, image_folder, csv, parquet", code=USAGE)
    request = {
        **data_meant(sources, spec, recipe, overrides),
        "command": "convert",
        "to": to,
        "output": _text(output),
        "copy_images": not leave_images,
        "num_threads": num_threads,
    }
    return _run(request, json=json)


@app.command("split")
def split(
    output: Annotated[Path, typer.Option("--output", help="An empty folder.", show_default=False)],
    sources: SourcesArgument = None,
    validation: Annotated[float, typer.Option("--validation", help="Share of the images to validate on.")] = 0.1,
    test: Annotated[float, typer.Option("--test", help="Share of the images to test on.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Draws the parts.")] = 0,
    by: Annotated[
        str, typer.Option("--by", help="class, domain or nothing has the same share in every part.")
    ] = "class",
    group_duplicates: Annotated[
        bool, typer.Option("--group-duplicates", help="Keep copies, exact and near, in the same part: nothing leaks.")
    ] = False,
    near: NearOption = 4,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="Folder that remembers what was looked at; see validate.")
    ] = None,
    num_threads: ThreadsOption = None,
    json: JsonOption = False,
) -> int:
    """Divide one source into train, validation and test parts; its files stay as they are."""
    for option, share in (("--validation", validation), ("--test", test)):
        if not 0 <= share < 1:
            raise CommandError(f"{option} is {share}; give a share from 0 to below 1", code=USAGE)
    if by not in ("class", "domain", "nothing"):
        raise CommandError(f"--by is {by!r}; allowed: class, domain, nothing", code=USAGE)
    request = {
        **data_meant(sources, None, None, None),
        "command": "split",
        "output": _text(output),
        "validation": validation,
        "test": test,
        "seed": seed,
        "by": by,
        "group_duplicates": group_duplicates,
        "near": near,
        "journal": _text(journal),
        "num_threads": num_threads,
    }
    return _run(request, json=json)


def data_meant(
    sources: list[str] | None, spec: Path | None, recipe: str | None, overrides: list[str] | None
) -> dict[str, Any]:
    """Which data: sources, or a job's, whose spec may stand in place of a source."""
    named = list(sources or [])
    if spec is None and len(named) == 1 and named[0].endswith(_SPEC_ENDINGS):
        spec, named = Path(named[0]), []
    job = spec_given(spec, recipe, overrides)
    if job is None and not named:
        raise CommandError("name data: a path, a {yaml mapping}, or a job with --spec or --recipe", code=USAGE)
    if job is not None and named:
        raise CommandError("name data, or a job with --spec, --recipe or --set, not both", code=USAGE)
    return {"sources": named, "spec": None if job is None else job.model_dump(mode="json")}


def _run(request: dict[str, Any], *, json: bool) -> int:
    """Run the child and show its answer; what is wrong, it says itself."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the child is ended too
    child = subprocess.run(
        [sys.executable, "-P", "-m", _MODULE, "-"],  # not as an argument, which is limited and seen by all
        input=json_module.dumps(request),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.returncode not in (DONE, FAILED):
        if child.returncode < 0:
            raise CommandError(f"{_MODULE} was ended by signal {-child.returncode}")
        raise typer.Exit(child.returncode)
    if not child.stdout:
        raise CommandError(f"{_MODULE} failed; what it wrote above says more")
    answer = json_module.loads(child.stdout)
    if json:
        print_json(answer["document"])
    else:
        show_answer(answer)
    return child.returncode


def show_answer(answer: dict[str, Any]) -> None:
    for table in answer["tables"]:
        print_table(table["heads"], table["rows"], title=table["title"])
        if table["left_out"]:
            console.print(f"... and {table['left_out']:,} more; --json has all", markup=False)
        console.print()
    for line in answer["lines"]:
        console.print(line, markup=False, soft_wrap=True)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
