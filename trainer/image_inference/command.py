"""What `attune classify` and `attune features` run: `python -m trainer.image_inference.command REQUEST`.

REQUEST is JSON with the fields of `Classify` or `Features`. `answers.json` or the .npz file is what it leaves. Exit
codes: 0, or 2 for a model, an image or a setting that cannot be used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, TypeAdapter

from dali_pipelines.sources.samples import IMAGE_EXTENSIONS
from trainer.errors import TrainingError, UnusableDataError, UnusableSpecError
from trainer.image_inference.annotation import annotated, free_name
from trainer.image_inference.ask import extract_features, inference_model
from trainer.image_inference.features import Stage
from trainer.image_inference.models import get_model
from trainer.job_dir import write_json_atomically
from trainer.spec import PositiveInt, Section


class _Request(Section):
    model: str
    images: tuple[str, ...]
    """Files, or folders whose images are meant."""
    batch_size: PositiveInt = 32
    image_size: PositiveInt | None = None
    output: str
    """The file to write: JSON of answers, or an .npz file."""


class Classify(_Request):
    """Say what images show."""

    command: Literal["classify"]
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    top_k: PositiveInt = 5
    show_dir: str | None = None
    """Folder for annotated pictures."""


class Features(_Request):
    """Write features."""

    command: Literal["features"]
    stage: Stage = "neck"


_REQUEST: TypeAdapter[Classify | Features] = TypeAdapter(Annotated[Classify | Features, Field(discriminator="command")])


def classify(request: Classify) -> None:
    """Answer with the likeliest classes of each image, and draw them where `show_dir` says."""
    files = _files(request.images)
    model = get_model(
        request.model,
        class_names=request.class_names,
        templates=request.templates,
        image_size=request.image_size,
    )
    names = model.class_names
    answers: list[dict[str, Any]] = []
    taken: set[Path] = set()
    for start in range(0, len(files), request.batch_size):  # scores of all classes are kept for one batch only
        some = files[start : start + request.batch_size]
        for file, found in zip(some, inference_model(model, some, batch_size=request.batch_size), strict=True):
            order = np.argsort(-found["pred_scores"], kind="stable")[: request.top_k]
            best = [_one(int(label), float(found["pred_scores"][label]), names) for label in order]
            answers.append({"image": str(file), **_one(found["pred_label"], found["pred_score"], names), "top": best})
            if request.show_dir is not None:
                _show(file, best, folder=Path(request.show_dir), taken=taken)
    write_json_atomically(Path(request.output), {"model": model.name, "answers": answers})


def features(request: Features) -> None:
    """Write an array a feature, `features` or `features_0`, `features_1`, ..., and the `images` in the same order."""
    files = _files(request.images)
    output = Path(request.output)
    if output.suffix != ".npz":
        raise UnusableSpecError(f"--output is {str(output)!r}; features go into an .npz file")
    model = get_model(request.model, image_size=request.image_size)
    found = extract_features(model, files, stage=request.stage, batch_size=request.batch_size)
    stacked = [np.stack(parts) for parts in zip(*found, strict=True)]
    names = ["features"] if len(stacked) == 1 else [f"features_{number}" for number in range(len(stacked))]
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(output, **dict(zip(names, stacked, strict=True)), images=np.array([str(file) for file in files]))


def _one(label: int, score: float, class_names: tuple[str, ...] | None) -> dict[str, Any]:
    answer = {"pred_label": label, "pred_score": score}
    return answer if class_names is None else {**answer, "pred_class": class_names[label]}


def _show(file: Path, best: list[dict[str, Any]], *, folder: Path, taken: set[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [(str(one.get("pred_class", one["pred_label"])), one["pred_score"]) for one in best]
    with Image.open(file) as image:
        annotated(image, lines).save(free_name(folder, file, taken))


def _files(given: tuple[str, ...]) -> list[Path]:
    """The images, in the order given; those of a folder by path."""
    files: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS and p.is_file())
            if not inside:
                raise UnusableDataError(f"folder {str(path)!r} holds no images")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UnusableDataError(f"there is no image file {str(path)!r}")
    return files


def main(arguments: list[str]) -> int:
    """Run one request; 0 done, 2 refused."""
    request = _REQUEST.validate_json(arguments[0])
    try:
        if isinstance(request, Classify):
            classify(request)
        else:
            features(request)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
