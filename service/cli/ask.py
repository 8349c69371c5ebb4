"""`attune classify` and `attune features`: ask a model about image files on this machine, without the service."""

from __future__ import annotations

import json as json_module
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import USAGE, CommandError
from service.cli.local_run import run_module
from service.cli.output import JsonOption, percent, print_json, print_table

_MODULE = "trainer.image_inference.command"

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Model as in model.name of a spec, such as local-dir:FOLDER, ViT-B/32 or timm/NAME.TAG.",
        show_default=False,
    ),
]
ImagesArgument = Annotated[
    list[str], typer.Argument(help="Image files, or folders of them.", metavar="IMAGES...", show_default=False)
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")]
ImageSizeOption = Annotated[
    int | None, typer.Option("--image-size", min=1, help="Input size in pixels of an image-text model.")
]


def classify(
    model: ModelArgument,
    images: ImagesArgument,
    class_names: Annotated[
        list[str] | None,
        typer.Option(
            "--class-names",
            help="Classes to choose from, comma-separated; can be repeated. For image-text models; by default those"
            " that an export was trained on.",
        ),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option("--templates", help="Prompt template with one {}, or a published set; can be repeated."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Classes an image.")] = 5,
    show_dir: Annotated[
        Path | None, typer.Option("--show-dir", help="Folder for pictures with the answers below the image.")
    ] = None,
    batch_size: BatchSizeOption = 32,
    image_size: ImageSizeOption = None,
    json: JsonOption = False,
) -> None:
    """Say what images show: a classifier by its own classes, an image-text model zero-shot among --class-names."""
    names = [name.strip() for text in class_names or [] for name in text.split(",") if name.strip()]
    with tempfile.TemporaryDirectory(prefix="attune-classify-") as folder:
        output = Path(folder) / "answers.json"
        request = {
            "command": "classify",
            "model": model,
            "images": images,
            "class_names": names,
            "templates": templates or [],
            "top_k": top_k,
            "show_dir": str(show_dir) if show_dir else None,
            "batch_size": batch_size,
            "image_size": image_size,
            "output": str(output),
        }
        run_module(_MODULE, request)
        answers = json_module.loads(output.read_text(encoding="utf-8"))["answers"]
    if json:
        print_json(answers)
        return
    rows = ((answer["image"], _name(one), percent(one["pred_score"])) for answer in answers for one in answer["top"])
    print_table(("image", "class", "probability"), rows)


def features(
    model: ModelArgument,
    images: ImagesArgument,
    output: Annotated[Path, typer.Option("--output", help="The .npz file to write.", show_default=False)],
    stage: Annotated[str, typer.Option("--stage", help="backbone, neck or pre_logits.")] = "neck",
    batch_size: BatchSizeOption = 32,
    image_size: ImageSizeOption = None,
) -> None:
    """Write features of images to an .npz file: `features`, a row an image, and `images`, their paths."""
    if stage not in ("backbone", "neck", "pre_logits"):
        raise CommandError(f"--stage is {stage!r}; allowed: backbone, neck, pre_logits", code=USAGE)
    request = {
        "command": "features",
        "model": model,
        "images": images,
        "stage": stage,
        "batch_size": batch_size,
        "image_size": image_size,
        "output": str(output),
    }
    run_module(_MODULE, request)


def _name(answer: dict[str, Any]) -> str:
    return str(answer.get("pred_class", answer["pred_label"]))
