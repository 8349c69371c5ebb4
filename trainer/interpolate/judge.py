"""What a model between two others scores: data that are read once, and every point measured on them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError
from trainer import evaluate
from trainer.data_sources import read_source
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.evaluation.datasets import evaluate_on
from trainer.evaluation.passes import Model, Pass
from trainer.evaluation.request import Request as Evaluation
from trainer.evaluation.request import settle
from trainer.evaluation.results import flat_metrics
from trainer.interpolate.request import Interpolate
from trainer.models import load_clip
from trainer.spec import ModelSpec
from trainer.stored_classifiers import read_classifier


class Judge:
    """Measures exports on the data of one request."""

    def __init__(self, request: Interpolate, *, tuned: Path, device: torch.device) -> None:
        """Read and check the data; class names, templates and EXIF rule are the tuned model's.

        Raises:
            UnusableDataError: they cannot be used.
            UnusableSpecError: an option does not fit them.
        """
        self._settled = settled_data(tuned, data=request.data, templates=request.templates)
        self._manifests = read_data(self._settled)
        self._pass = Pass(device, batch_size=request.batch_size, precision=request.precision)
        self.in_distribution = _in_distribution(request, self._manifests)

    def measure(self, folder: Path) -> dict[str, float]:
        """`DATASET/METRIC` of the model in `folder`."""
        model = load_export(folder)
        model.module.to(self._pass.device)
        results = [
            result
            for name, manifest in self._manifests.items()
            for result in evaluate_on(
                model, manifest, self._pass, dataset=name, templates=self._settled.templates_of(name), protocol=None
            )
        ]
        return flat_metrics(results)


def load_export(folder: Path) -> Model:
    """The model in an export's folder, whichever its layout, on the CPU."""
    if (folder / "open_clip_config.json").is_file():
        return load_clip(ModelSpec(name=f"local-dir:{folder}"))
    return read_classifier(folder)


def settled_data(model: Path, *, data: Sequence[str], templates: Sequence[str]) -> Evaluation:
    """Data and templates as an evaluation of the export `model` has them: with its classes' names, its EXIF rule,
    and its templates unless others are given.

    Raises:
        UnusableSpecError: they cannot be read.
    """
    options = ["--model", f"local-dir:{model}"]
    options += [word for one in data for word in ("--data", one)]
    options += [word for template in templates for word in ("--templates", template)]
    return settle(evaluate.parse_arguments(options))


def read_data(settled: Evaluation) -> dict[str, Manifest]:
    """The manifest of each data set; images that cannot be decoded are named on stderr and left out.

    Raises:
        UnusableDataError: there is none left, or the source is wrong.
    """
    manifests = {}
    for name, source in settled.data.items():
        try:
            manifests[name], report = read_source(source, on_bad_sample="skip", exif=settled.exif)
        except DataError as error:
            raise UnusableDataError(f"data set {name!r}: {error}") from None
        for path, why in report.bad:
            print(f"warning: {name}: left out {path}: {why}", file=sys.stderr)
    return manifests


def _in_distribution(request: Interpolate, manifests: Mapping[str, Manifest]) -> str | None:
    wanted = request.in_distribution
    if wanted is not None and wanted not in manifests:
        raise UnusableSpecError(f"--in-distribution is {wanted!r}; the data sets are {', '.join(manifests)}")
    return next(iter(manifests)) if len(manifests) == 1 else wanted
