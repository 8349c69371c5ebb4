"""What `attune interpolate` and `attune fisher` run: `python -m trainer.interpolate.command REQUEST`.

REQUEST is JSON with the fields of `Interpolate` or `Fisher`. The former leaves

    OUTPUT/wise_ft_alpha=0.500/ ...     a model a point, in the layout of the tuned one
    OUTPUT/curve.{json,csv,md,png}      what they score, if there are data

and the latter files of squared gradients, named as the model's files of weights. Exit codes: 0, or 2 for models, data
or settings that cannot be used.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import save_file

from dali_pipelines.sources import DataError
from trainer import distributed
from trainer.errors import TrainingError
from trainer.interpolate import fisher as fisher_information
from trainer.interpolate.folders import FolderLine, named_folder, starting_folder, update_description, weight_files
from trainer.interpolate.judge import Judge, read_data, settled_data
from trainer.interpolate.points import alpha_name
from trainer.interpolate.request import Fisher, Interpolate
from trainer.interpolate.tensor_files import TensorFile
from trainer.interpolation import InterpolationError
from trainer.resolve import SpecError, told_once
from trainer.whole_folder import replacing
from trainer.wise_ft import Curve, curve_of

_REQUEST: TypeAdapter[Interpolate | Fisher] = TypeAdapter(
    Annotated[Interpolate | Fisher, Field(discriminator="command")]
)


def interpolate(request: Interpolate) -> None:
    """Write the points, measure them where there are data, and leave the curve.

    Raises:
        TrainingError: the models do not correspond, or models, data or settings cannot be used.
    """
    tuned, output = _export(request.tuned), Path(request.output)
    fishers = None if request.fisher is None else (Path(request.fisher[0]), Path(request.fisher[1]))
    device = distributed.device()
    with starting_folder(request.start, tuned=tuned) as start:
        line = FolderLine.between(start, tuned, name=request.start, fishers=fishers, fisher_floor=request.fisher_floor)
        judge = Judge(request, tuned=tuned, device=device) if request.data else None
        points: dict[float, dict[str, float]] = {}
        for alpha in sorted(set(request.points)):
            folder = output / alpha_name(alpha)
            line.write(folder, alpha=alpha)
            print(f"wrote {folder}", file=sys.stderr, flush=True)
            if judge is not None:
                points[alpha] = judge.measure(folder)
                update_description(folder, metrics=points[alpha])
                _drop_losers(output, points, request, in_distribution=judge.in_distribution)
    if judge is not None:
        curve = _curve(points, request, in_distribution=judge.in_distribution)
        chosen = _chosen(curve, request)
        curve.write(output, chosen=chosen)


def _drop_losers(
    output: Path, points: dict[float, dict[str, float]], request: Interpolate, *, in_distribution: str | None
) -> None:
    """With a choice, keep only what it has fallen on so far: many models of a billion weights fill a disk."""
    if request.choose is None:
        return
    chosen = _chosen(_curve(points, request, in_distribution=in_distribution), request)
    for alpha in points:
        if alpha != chosen:
            shutil.rmtree(output / alpha_name(alpha), ignore_errors=True)


def _curve(points: dict[float, dict[str, float]], request: Interpolate, *, in_distribution: str | None) -> Curve:
    measured = next(iter(points.values()))
    names = {name.rpartition("/")[2] for name in measured}
    metric = request.metric or ("top1" if "top1" in names else "mean_recall")
    if metric not in names:
        raise InterpolationError(f"--metric {metric} is not measured on these data; there are {', '.join(names)}")
    if in_distribution is not None and f"{in_distribution}/{metric}" not in measured:
        raise InterpolationError(f"--in-distribution: {in_distribution!r} is not measured by {metric}")
    return curve_of(points, main_metric=f"{in_distribution or ''}/{metric}")


def _chosen(curve: Curve, request: Interpolate) -> float | None:
    if request.choose != "best":
        return request.choose
    return curve.best(f"{curve.in_distribution}/{curve.metric}").alpha


def fisher(request: Fisher) -> None:
    """Write the diagonal Fisher information of a model on labelled images.

    Raises:
        TrainingError: model or data cannot be used.
    """
    folder, device = _export(request.model), distributed.device()
    settled = settled_data(folder, data=[request.data], templates=request.templates)
    (manifest,) = read_data(settled).values()
    model = fisher_information.differentiable(
        folder, class_names=manifest.class_names, templates=settled.common_templates(), device=device
    )
    manifest = fisher_information.align_labels(manifest, model)
    manifest = fisher_information.spread(manifest, num_samples=request.num_samples)
    found = fisher_information.diagonal_fisher(model, manifest, labels=request.labels, seed=request.seed, device=device)
    with replacing(Path(request.output)) as partial:
        for file, tensors in found.items():
            shapes = TensorFile.open(folder / file).shapes
            save_file({name: tensor.reshape(shapes[name]) for name, tensor in tensors.items()}, partial / file)


def _export(name: str) -> Path:
    folder = named_folder(name)
    if folder is None:
        raise InterpolationError(f"there is no folder {name!r}; give an export's")
    weight_files(folder)
    return folder


def main(arguments: list[str]) -> int:
    """Run one request; 0 done, 2 refused."""
    try:
        request = _REQUEST.validate_json(arguments[0])
        (interpolate if isinstance(request, Interpolate) else fisher)(request)
    except (TrainingError, SpecError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        for problem in told_once(error):
            place = ".".join(str(part) for part in problem["loc"][1:])
            print(f"error: {place}{': ' if place else ''}{problem['msg']}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
