"""Evaluation of one model on one data set: what the data allow decides the task.

An image-text model is measured zero-shot on labelled images and by retrieval on captioned ones (by both where a
sample has both); a classifier by its own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pyarrow import compute as arrow_compute
from torch import Tensor

from dali_pipelines.loader import Batch, EvalLoader
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError
from trainer.evaluation.features import encode_texts, image_features, inference, over_batches, weight_dtype
from trainer.evaluation.metrics import classification_metrics, label_positions
from trainer.evaluation.report import Result, Task
from trainer.evaluation.retrieval import retrieval_metrics
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.models import ClassifierModel, ClipModel

TEXT_BATCH_SIZE = 256  # texts a forward pass; they are short beside images


@dataclass(frozen=True)
class _Pass:
    """Where and how one evaluation runs."""

    manifest: Manifest
    dataset: str
    device: torch.device
    rank: int
    world_size: int
    batch_size: int
    num_threads: int | None
    on_bad_sample: Literal["fail", "skip"]
    autocast: bool


def evaluate_dataset(
    model: ClipModel | ClassifierModel,
    manifest: Manifest,
    *,
    dataset: str,
    templates: Sequence[str],
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 64,
    num_threads: int | None = None,
    on_bad_sample: Literal["fail", "skip"] = "fail",
    precision: Literal["fp32", "amp_bf16"] = "fp32",
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

    Raises:
        UnusableDataError: the data have neither labels nor captions, or classes that the classifier does not know.
        NonFiniteOutputError: the model's output is not a number.
    """
    run = _Pass(
        manifest=manifest,
        dataset=dataset,
        device=device,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        num_threads=num_threads,
        on_bad_sample=on_bad_sample,
        autocast=precision == "amp_bf16",
    )
    if isinstance(model, ClassifierModel):
        return [_classification(model, run)]
    labelled = bool(manifest.class_names) and bool((manifest.labels >= 0).any())
    captioned = _num_captions(manifest) > 0
    if not labelled and not captioned:
        raise UnusableDataError(f"data set {dataset!r} has neither labels nor captions to evaluate by")
    results = [_zero_shot(model, templates, run)] if labelled else []
    return [*results, _retrieval(model, run)] if captioned else results


def aligned(manifest: Manifest, class_names: Sequence[str], *, dataset: str) -> Manifest:
    """The manifest with its labels numbered by a classifier's `class_names`.

    Classes that the data set lacks are no error: the other images are still measured against all of them.

    Raises:
        UnusableDataError: the data set has no labels, or classes that the classifier does not know.
    """
    if not manifest.class_names:
        raise UnusableDataError(f"data set {dataset!r} has no labels, and a classifier is measured by them")
    unknown = [name for name in manifest.class_names if name not in set(class_names)]
    if unknown:
        missing = [name for name in class_names if name not in set(manifest.class_names)]
        raise UnusableDataError(
            f"data set {dataset!r} has classes that the classifier does not know: {_listed(unknown)};"
            f" classes that the classifier knows and the data set lacks: {_listed(missing)}"
        )
    return manifest.with_class_names(class_names)


def _zero_shot(model: ClipModel, templates: Sequence[str], run: _Pass) -> Result:
    class_names = run.manifest.class_names
    weights_dc = zero_shot_weights(
        model.module,
        model.tokenize,
        class_names,
        templates,
        device=run.device,
        batch_size=TEXT_BATCH_SIZE,
        rank=run.rank,
        world_size=run.world_size,
        autocast=run.autocast,
    )

    def scores(images: Tensor) -> Tensor:
        return _image_features(model, images, run) @ weights_dc

    return _measure(model, scores, run.manifest.labels, class_names, "zero_shot", run)


def _classification(model: ClassifierModel, run: _Pass) -> Result:
    labels = aligned(run.manifest, model.class_names, dataset=run.dataset).labels
    dtype = weight_dtype(model.module)

    def scores(images: Tensor) -> Tensor:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.autocast):
            return model.module(images.to(dtype)).float()

    return _measure(model, scores, labels, model.class_names, "classification", run)


def _measure(
    model: ClipModel | ClassifierModel,
    scores: Callable[[Tensor], Tensor],
    labels_n: np.ndarray,
    class_names: Sequence[str],
    task: Task,
    run: _Pass,
) -> Result:
    """Accuracy of `scores`, images -> (B, C), on the images that have a label."""

    def positions(batch: Batch) -> Tensor:
        labels_b = torch.from_numpy(np.maximum(labels_n[batch.rows], 0).astype(np.int64)).to(run.device)
        return label_positions(scores(batch.images), labels_b)

    positions_n, rows = _over_dataset(model, positions, run)
    labels = torch.from_numpy(labels_n[rows].astype(np.int64))
    has_label = labels >= 0
    metrics, table = classification_metrics(positions_n.cpu()[has_label], labels[has_label], class_names)
    return Result(run.dataset, task, int(has_label.sum()), metrics, table)


def _retrieval(model: ClipModel, run: _Pass) -> Result:
    def features(batch: Batch) -> Tensor:
        return _image_features(model, batch.images, run)

    images_nd, rows = _over_dataset(model, features, run)
    captions = [run.manifest.captions(int(row)) for row in rows]
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
    return Result(run.dataset, "retrieval", len(rows), metrics)


def _image_features(model: ClipModel, images: Tensor, run: _Pass) -> Tensor:
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.autocast):
        return image_features(model.module, images)


def _over_dataset(
    model: ClipModel | ClassifierModel, compute: Callable[[Batch], Tensor], run: _Pass
) -> tuple[Tensor, np.ndarray]:
    loader = EvalLoader(
        run.manifest,
        preprocess=model.preprocess,
        batch_size=run.batch_size,
        rank=run.rank,
        world_size=run.world_size,
        device=run.device.index if run.device.type == "cuda" else None,
        num_threads=run.num_threads,
        on_bad_sample=run.on_bad_sample,
    )
    with inference(model.module):
        return over_batches(compute, loader, world_size=run.world_size)


def _num_captions(manifest: Manifest) -> int:
    return int(arrow_compute.sum(arrow_compute.list_value_length(manifest.table["captions"])).as_py() or 0)


def _listed(names: Sequence[str], limit: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
