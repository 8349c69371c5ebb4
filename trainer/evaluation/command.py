"""What `trainer/evaluate.py` does: settle model, data and protocol, measure, and hand over to `outputs`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError
from trainer import distributed
from trainer.data_sources import read_source
from trainer.errors import TrainingError, UnusableDataError, UnusableSpecError
from trainer.evaluation import exports, outputs
from trainer.evaluation.bank import feature_bank
from trainer.evaluation.datasets import evaluate_on, possible_tasks
from trainer.evaluation.passes import Model, Pass
from trainer.evaluation.request import Request, settle
from trainer.evaluation.results import Result
from trainer.models import ClipModel, ModelError, load_clip
from trainer.resolve import SpecError
from trainer.spec import AnySource
from trainer.stored_classifiers import read_classifier

_BAD_INPUT = (DataError, ModelError, SpecError, TrainingError)
_TRAIN = "--train-data"  # a name that no data set can have


def evaluate(arguments: argparse.Namespace) -> int:
    """Run the command on this rank; 0 done, 2 for a model or data that cannot be used."""
    device = distributed.join()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    run = Pass(
        device=device,
        rank=rank,
        world_size=world_size,
        batch_size=arguments.batch_size,
        num_threads=arguments.num_threads,
        on_bad_sample=arguments.on_bad_sample,
        precision=arguments.precision,
    )
    try:
        request = settle(arguments)
        exports.refuse_unknown_endings(arguments)
        manifests = _agreed_manifests(request, arguments, rank=rank)
        train = manifests.pop(_TRAIN, None)
        results = _measure(request, manifests, train, arguments, run)
    except _BAD_INPUT as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.leave()
    if rank == 0:
        outputs.write(results, manifests, request, arguments)
    return 0


def _measure(
    request: Request,
    manifests: Mapping[str, Manifest],
    train: Manifest | None,
    arguments: argparse.Namespace,
    run: Pass,
) -> list[Result]:
    model = _load(request)
    model.module.to(run.device)
    _refuse_impossible_tasks(model, manifests, request)
    exports.export(model, manifests, request, arguments, run)
    bank = None if train is None else feature_bank(model, train, run)
    results: list[Result] = []
    for name, manifest in manifests.items():
        results += evaluate_on(
            model,
            manifest,
            run,
            dataset=name,
            templates=request.templates_of(name),
            protocol=request.protocol,
            bank=bank,
        )
    return results


def _refuse_impossible_tasks(model: Model, manifests: Mapping[str, Manifest], request: Request) -> None:
    """Every task that was asked for must be possible on some data set, and every option must change something."""
    protocol, learns = request.protocol, request.train is not None
    each = [possible_tasks(model, manifest, dataset=name, learns=learns) for name, manifest in manifests.items()]
    possible = sorted({task for tasks in each for task in tasks})
    if impossible := [task for task in protocol.tasks or () if task not in possible]:
        kind = "an image-text model" if isinstance(model, ClipModel) else "a classifier"
        raise UnusableSpecError(
            f"--tasks {', '.join(impossible)} cannot be measured: {kind} and these data allow {', '.join(possible)}"
        )
    measured = set(protocol.tasks or possible)
    unused = {
        "--tta": protocol.views != "none" and measured == {"retrieval"},
        "--class-subset": protocol.class_subset is not None and measured == {"retrieval"},
        "--predictions": protocol.top_k > 0 and measured == {"retrieval"},
        "--classes": protocol.classes is not None and "zero_shot" not in measured,
    }
    if ignored := [option for option, is_unused in unused.items() if is_unused]:
        raise UnusableSpecError(f"{', '.join(ignored)} would change nothing: only {', '.join(measured)} is measured")


def _load(request: Request) -> Model:
    name = request.model.name
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") or (folder / "open_clip_config.json").exists():
        return load_clip(request.model, exif=request.exif)
    model = read_classifier(folder, image_size=request.model.image_size)
    return replace(model, preprocess=replace(model.preprocess, exif=request.exif))


def _agreed_manifests(request: Request, arguments: argparse.Namespace, *, rank: int) -> dict[str, Manifest]:
    """Rank 0 reads and checks the data; the others take its word, or its complaint."""
    found: dict[str, Manifest] | str = {}
    learns = request.train is not None and {"linear_probe", "knn"} & set(request.protocol.tasks or ())
    sources = {**request.data, **({_TRAIN: request.train} if learns else {})}
    if rank == 0:
        try:
            found = {name: _read(name, source, request, arguments) for name, source in sources.items()}
        except _BAD_INPUT as error:
            found = str(error)
    found = distributed.agree(found)
    if isinstance(found, str):
        raise UnusableDataError(found)
    return found


def _read(name: str, source: AnySource, request: Request, arguments: argparse.Namespace) -> Manifest:
    try:
        manifest, report = read_source(
            source, on_bad_sample=arguments.on_bad_sample, exif=request.exif, num_threads=arguments.num_threads
        )
    except DataError as error:
        raise UnusableDataError(f"data set {name!r}: {error}") from None
    for path, why in report.bad:
        print(f"warning: {name}: left out {path}: {why}", file=sys.stderr)
    if request.class_names is None:
        return manifest
    if len(request.class_names) != len(manifest.class_names):
        raise UnusableDataError(
            f"--class-names lists {len(request.class_names)} names, but data set {name!r} has"
            f" {len(manifest.class_names)} classes: {', '.join(manifest.class_names[:10])}"
        )
    return replace(manifest, class_names=request.class_names)
