"""`attune predict`: ask a registered model about image files, through the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import USAGE, CommandError
from service.cli.output import DEFAULT_URL, JsonOption, UrlOption, percent, print_json, print_table
from service.client import AttuneClient

_IMAGES_PER_REQUEST = 16


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    model: Annotated[str, typer.Option("--model", help="Name of a registered model.")],
    class_names: Annotated[
        list[str] | None,
        typer.Option("--class-names", help="Classes to choose from, comma-separated; without them, the model's own."),
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option("--template", help="Prompt template with one {}; can be repeated.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Answers an image.")] = 3,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Say what images show: zero-shot among --class-names, or among the classes that the model was trained on."""
    names = [name.strip() for text in class_names or [] for name in text.split(",") if name.strip()]
    if template and not names:
        raise CommandError("--template needs --class-names: without them the model answers with its own", code=USAGE)
    for image in images:
        if not image.is_file():
            raise CommandError(f"there is no image file {str(image)!r}", code=USAGE)
    with AttuneClient(url) as client:
        answers = _ask(client, model, images, names, template, top_k)
    if json:
        print_json(answers)
    else:
        rows = ((a["image"], p["label"], percent(p["probability"])) for a in answers for p in a["predictions"])
        print_table(("image", "class", "probability"), rows)


def _ask(
    client: AttuneClient, model: str, images: list[Path], names: list[str], templates: list[str] | None, top_k: int
) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for start in range(0, len(images), _IMAGES_PER_REQUEST):
        some = images[start : start + _IMAGES_PER_REQUEST]
        if names:
            data = client.zero_shot(model, some, names, templates=templates, top_k=min(top_k, len(names)))
        else:
            data = client.classify(model, some, top_k=top_k)
        answers += [{"image": str(some[answer["index"]]), "predictions": answer["predictions"]} for answer in data]
    return answers
