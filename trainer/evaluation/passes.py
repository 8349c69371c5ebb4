"""One pass of a model over a data set: where and how it runs, and the features it gives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dali_pipelines.bad_samples import BadSample
from dali_pipelines.loader import Batch, EvalLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.storage import Cache
from dali_pipelines.transforms import Preprocess
from dali_pipelines.validation import OnBadSample
from trainer.evaluation.features import inference, over_batches, weight_dtype
from trainer.models import ClassifierModel, ClipModel

Model = ClipModel | ClassifierModel


@dataclass(frozen=True)
class Pass:
    """Where and how an evaluation runs. Every rank makes an equal one but for `rank`."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    batch_size: int = 64
    """Images a forward pass and rank."""
    num_threads: int | None = None
    """Decoder threads a rank; None leaves it to the loader."""
    on_bad_sample: OnBadSample = "fail"
    """What to do with an image that has become unreadable; `skip` leaves it out."""
    cache: Cache | None = None
    """Where remote files are kept; None: the machine's own cache."""
    tell: Callable[[BadSample], None] | None = None
    """Called with each image that has become unreadable."""
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    """`amp_bf16` computes under bfloat16 autocast."""

    @property
    def autocast(self) -> bool:
        """Whether to compute under autocast."""
        return self.precision == "amp_bf16"


def over_dataset(
    model: Model,
    compute: Callable[[Batch], Tensor],
    manifest: Manifest,
    run: Pass,
    *,
    preprocess: Preprocess | None = None,
) -> tuple[Tensor, np.ndarray]:
    """`compute(batch)` -> (B, ...) over a data set, in eval mode: rows in manifest order, and their row numbers."""
    loader = EvalLoader(
        manifest,
        preprocess=preprocess or model.preprocess,
        batch_size=run.batch_size,
        rank=run.rank,
        world_size=run.world_size,
        device=run.device.index if run.device.type == "cuda" else None,
        num_threads=run.num_threads,
        on_bad_sample=run.on_bad_sample,
        cache=run.cache,
        tell=run.tell,
    )
    with inference(model.module):
        return over_batches(compute, loader, world_size=run.world_size)


def image_embeddings(model: Model, images: Tensor, run: Pass) -> Tensor:
    """Features (B, D) float32 of images, not normalised: an image-text model's embeddings, or what a classifier's
    head is given."""
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.autocast):
        own_type = images.to(weight_dtype(model.module))
        encode = model.module.features if isinstance(model, ClassifierModel) else model.module.encode_image
        return encode(own_type).float()


@dataclass(frozen=True)
class Encoded:
    """Images on their way through a model, encoded once however many classifiers look at them."""

    model: Model
    images: Tensor
    """(B, 3, H, W) as the model takes them."""
    run: Pass

    @functools.cached_property
    def embeddings(self) -> Tensor:
        """`image_embeddings` of them."""
        return image_embeddings(self.model, self.images, self.run)


def unit_embeddings(model: Model, images: Tensor, run: Pass) -> Tensor:
    """The same at unit norm."""
    return functional.normalize(image_embeddings(model, images, run), dim=-1)
