"""`attune evaluate`: the same as `deepspeed trainer/evaluate.py`, with the launch taken care of. Needs no service."""

from __future__ import annotations

import json as json_module
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.attempts import ForegroundRun
from service.cli.exits import DONE, STOPPED, USAGE, CommandError
from service.cli.output import JsonOption, print_json

_RESULTS = "results.json"


def evaluate(
    model: Annotated[
        str | None, typer.Option("--model", help="Name of a model, or local-dir:FOLDER; by default the job's.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="[NAME=]PATH", help="Image folder, CSV or TSV file; can be repeated."),
    ] = None,
    domains: Annotated[
        Path | None,
        typer.Option("--domains", metavar="ROOT", help="Folder of domains, each a folder of class folders."),
    ] = None,
    in_distribution: Annotated[
        str | None,
        typer.Option(
            "--in-distribution", metavar="NAME", help="The data set that the others are shifted from: adds their table."
        ),
    ] = None,
    limit_per_class: Annotated[
        int | None, typer.Option("--limit-per-class", min=1, help="Only the first N images of each class of folders.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            help="zero_shot, retrieval, classification, linear_probe, knn, separated by commas; by default what model"
            " and data allow of the first three.",
        ),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option("--train-data", metavar="PATH", help="Labelled images that linear_probe and knn learn from."),
    ] = None,
    probe_c: Annotated[
        float | None,
        typer.Option("--probe-c", help="Linear probe: inverse strength of its L2 penalty. [default: 0.316]"),
    ] = None,
    knn_k: Annotated[
        int | None, typer.Option("--knn-k", min=1, help="Nearest neighbours that vote. [default: 20]")
    ] = None,
    knn_temperature: Annotated[
        float | None,
        typer.Option("--knn-temperature", help="A neighbour of cosine s votes with exp(s / this). [default: 0.07]"),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Zero-shot: file of all class names to predict among.")
    ] = None,
    class_subset: Annotated[
        str | None,
        typer.Option(
            "--class-subset",
            help="Measure only these classes: a file, names separated by commas, or data for those of the data set.",
        ),
    ] = None,
    predict_over: Annotated[
        str | None,
        typer.Option("--predict-over", help="With --class-subset: predict among subset or all. [default: subset]"),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option("--tta", help="Test-time augmentation: none, flip, five_crop or ten_crop. [default: none]"),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option("--spec", help="Job spec: its model, data, templates and EXIF rule.")
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option("--templates", help="Prompt template with one {}, or a published set; can be repeated."),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option("--class-names", help="JSON list, JSON mapping of folder to name, or a name a line.")
    ] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", min=1, help="Input size in pixels.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images a device and forward pass. [default: 64]")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32 or amp_bf16. [default: fp32]")] = None,
    exif: Annotated[
        str | None, typer.Option("--exif", help="ignore or apply the EXIF orientation; by default as in training.")
    ] = None,
    on_bad_sample: Annotated[
        str | None, typer.Option("--on-bad-sample", help="fail or skip at undecodable images. [default: fail]")
    ] = None,
    num_threads: Annotated[int | None, typer.Option("--num-threads", min=1, help="Decoder threads a device.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder for results.json.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for tables as JSON, CSV, Markdown, PNG, and for figures.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="CSV file for a row an image: label, prediction, confidence.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Classes an image in --predictions. [default: 5]")
    ] = None,
    export_features: Annotated[
        Path | None,
        typer.Option("--export-features", help=".npz or .csv file for image features; a file a data set."),
    ] = None,
    export_text_embeddings: Annotated[
        Path | None,
        typer.Option("--export-text-embeddings", help=".npz or .safetensors file for class embeddings."),
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print each class's accuracy.")] = False,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="GPUs or processes. [default: all GPUs, or one process]")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Evaluate a model on data sets: zero-shot, classification or retrieval, by what the model and the data are; by a
    linear probe or nearest neighbours, if --tasks says so."""
    options: dict[str, Any] = {
        "--model": model,
        "--spec": spec,
        "--domains": domains,
        "--in-distribution": in_distribution,
        "--limit-per-class": limit_per_class,
        "--tasks": tasks,
        "--train-data": train_data,
        "--probe-c": probe_c,
        "--knn-k": knn_k,
        "--knn-temperature": knn_temperature,
        "--classes": classes,
        "--class-subset": class_subset,
        "--predict-over": predict_over,
        "--tta": tta,
        "--report": report,
        "--predictions": predictions,
        "--top-k": top_k,
        "--export-features": export_features,
        "--export-text-embeddings": export_text_embeddings,
        "--class-names": class_names,
        "--image-size": image_size,
        "--batch-size": batch_size,
        "--precision": precision,
        "--exif": exif,
        "--on-bad-sample": on_bad_sample,
        "--num-threads": num_threads,
    }
    arguments = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    arguments += [word for one in data or [] for word in ("--data", one)]
    arguments += [word for one in templates or [] for word in ("--templates", one)]
    arguments += ["--per-class"] if per_class else []
    with tempfile.TemporaryDirectory(prefix="attune-evaluate-") as temporary:
        folder = (output or Path(temporary)).resolve()
        code = _run([*arguments, "--output", str(folder)], folder / _RESULTS, devices=devices, quiet=json)
        if json and code == DONE:
            print_json(_read(folder / _RESULTS))
    return code


def _run(arguments: list[str], results: Path, *, devices: int | None, quiet: bool) -> int:
    """Run it and return the exit code; through the launcher, whose own code says nothing, results are the proof."""
    from service.launchers.base import Run, on_this_machine
    from service.launchers.local import LocalLauncher, free_port, launcher_command, trainer_script

    launcher = LocalLauncher(cpu_slots=devices or 1)
    capacity = launcher.capacity()
    chosen = capacity.devices[:devices]
    if len(chosen) < (devices or 1):
        raise CommandError(f"--devices is {devices}, but this machine has {len(chosen)} GPUs", code=USAGE)
    results.unlink(missing_ok=True)
    run = Run(job_id="evaluate", attempt=1, job_dir=results.parent, placement=on_this_machine(chosen))
    environment = launcher.environment(run)
    if len(chosen) > 1:
        where = [*launcher_command(chosen, capacity, free_port()), "--log_level", "error"]
    else:
        where = [sys.executable]
        environment["CUDA_VISIBLE_DEVICES"] = str(chosen[0]) if capacity.kind == "gpu" else ""
    command = [*where, trainer_script("evaluate.py"), *arguments]
    foreground = ForegroundRun(command, tag=f"evaluate/{results.parent}", environment=environment)
    own_code = foreground.run(ranks=list, output_to_stderr=quiet)
    if foreground.stop_requested:
        return STOPPED
    if results.exists():
        return DONE
    if len(chosen) == 1 and own_code > 0:
        return own_code
    how = f"by signal {-own_code}" if own_code < 0 else "without results"
    raise CommandError(f"the evaluation ended {how}; what it wrote above says more")


def _read(path: Path) -> Any:
    return json_module.loads(path.read_text(encoding="utf-8"))
