"""Evaluation of one model on one data set: what the data allow decides the task, unless the tasks are named.

An image-text model is measured zero-shot on labelled images and by retrieval on captioned ones (by both where a
sample has both); a classifier by its own classes. With the features of a training set, either is also measured by a
linear probe and by nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from dali_pipelines.validation import OnBadSample
from trainer.errors import UnusableDataError
from trainer.evaluation.bank import FeatureBank
from trainer.evaluation.classified import classify
from trainer.evaluation.features import encode_texts
from trainer.evaluation.passes import Model, Pass, over_dataset, unit_embeddings
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.results import Result
from trainer.evaluation.retrieval import retrieval_metrics
from trainer.evaluation.scorers import (
    TEXT_BATCH_SIZE,
    Scorer,
    head_scorer,
    linear_probe_scorer,
    neighbour_scorer,
    zero_shot_scorer,
)
from trainer.models import ClassifierModel, ClipModel
from trainer.spec_checks.metrics import Task

_FROM_FEATURES: tuple[Task, ...] = ("linear_probe", "knn")


def evaluate_dataset(
    model: Model,
    manifest: Manifest,
    *,
    dataset: str,
    templates: Sequence[str],
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 64,
    num_threads: int | None = None,
    on_bad_sample: OnBadSample = "fail",
    precision: Literal["fp32", "amp_bf16"] = "fp32",
    protocol: Protocol | None = None,
    bank: FeatureBank | None = None,
) -> list[Result]:
    """Measure `model`, whose module is on `device`. Every rank calls it and gets the same results.

    Args:
        model: what to measure; it comes back as it was.
        manifest: the data, the same on all ranks.
        dataset: the data's name in the results.
        templates: prompt templates with one `{}` each, for zero-shot.
        device: where to compute.
        rank: this process, of `world_size`.
        world_size: processes that share the data.
        batch_size: images a forward pass and rank.
        num_threads: decoder threads a rank; None leaves it to the loader.
        on_bad_sample: what to do with an image that has become unreadable; `skip` leaves it out of `num_samples`.
        precision: `amp_bf16` computes under bfloat16 autocast.
        protocol: what to measure, and how; tasks that the model or the data do not allow are left out.
        bank: features of the training set, for linear probe and k-NN.

    Raises:
        UnusableDataError: the data have neither labels nor captions, or classes that the classifier does not know.
        UnusableSpecError: the class subset names classes that there are not.
        NonFiniteOutputError: the model's output is not a number.
    """
    run = Pass(device, rank, world_size, batch_size, num_threads, on_bad_sample, precision=precision)
    return evaluate_on(model, manifest, run, dataset=dataset, templates=templates, protocol=protocol, bank=bank)


def evaluate_on(
    model: Model,
    manifest: Manifest,
    run: Pass,
    *,
    dataset: str,
    templates: Sequence[str],
    protocol: Protocol | None = None,
    bank: FeatureBank | None = None,
) -> list[Result]:
    """`evaluate_dataset`, with the pass already settled."""
    protocol = protocol or Protocol()
    possible = possible_tasks(model, manifest, dataset=dataset, learns=bank is not None)
    by_default = [task for task in possible if task not in _FROM_FEATURES]
    tasks = [task for task in possible if task in (by_default if protocol.tasks is None else protocol.tasks)]
    scorers = [_scorer(task, model, manifest, templates, protocol, bank, run) for task in tasks if task != "retrieval"]
    results = classify(model, scorers, manifest, dataset=dataset, protocol=protocol, run=run) if scorers else []
    return [*results, _retrieval(model, manifest, dataset, run)] if "retrieval" in tasks else results


def possible_tasks(model: Model, manifest: Manifest, *, dataset: str, learns: bool = False) -> tuple[Task, ...]:
    """The tasks that a model can be measured by on a data set; `learns`: with a training set's features.

    Raises:
        UnusableDataError: there is none.
    """
    labelled = bool(manifest.class_names) and bool((manifest.labels >= 0).any())
    from_features = _FROM_FEATURES if learns else ()
    if isinstance(model, ClassifierModel):
        if not manifest.class_names:
            raise UnusableDataError(f"data set {dataset!r} has no labels, and a classifier is measured by them")
        return "classification", *from_features
    captioned = manifest.num_captions > 0
    if not labelled and not captioned:
        raise UnusableDataError(f"data set {dataset!r} has neither labels nor captions to evaluate by")
    by_label: tuple[Task, ...] = ("zero_shot", *from_features) if labelled else ()
    return (*by_label, "retrieval") if captioned else by_label


def _scorer(
    task: Task,
    model: Model,
    manifest: Manifest,
    templates: Sequence[str],
    protocol: Protocol,
    bank: FeatureBank | None,
    run: Pass,
) -> Scorer:
    if task == "zero_shot":
        assert isinstance(model, ClipModel)
        return zero_shot_scorer(model, protocol.classes or manifest.class_names, templates, run)
    if task == "classification":
        assert isinstance(model, ClassifierModel)
        return head_scorer(model, run)
    assert bank is not None, f"{task} needs the features of a training set"
    return (linear_probe_scorer if task == "linear_probe" else neighbour_scorer)(bank, protocol)


def _retrieval(model: ClipModel, manifest: Manifest, dataset: str, run: Pass) -> Result:
    def features(batch: Batch) -> Tensor:
        return unit_embeddings(model, batch.images, run)

    images_nd, rows = over_dataset(model, features, manifest, run)
    captions = [manifest.captions(int(row)) for row in rows]
    texts_md = encode_texts(
        model.module,
        model.tokenize,
        [caption for own in captions for caption in own],
        device=run.device,
        batch_size=TEXT_BATCH_SIZE,
        rank=run.rank,
        world_size=run.world_size,
        autocast=run.autocast,
    )
    caption_images = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(own) for own in captions]))
    metrics = retrieval_metrics(images_nd, texts_md, caption_images.to(run.device))
    return Result(dataset, "retrieval", len(rows), metrics)
