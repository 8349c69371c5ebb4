"""Classifiers as functions from images to class scores: zero-shot, a head, a linear probe, nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainer.evaluation.bank import FeatureBank, linear_probe, neighbour_votes
from trainer.evaluation.features import weight_dtype
from trainer.evaluation.passes import Encoded, Pass
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.models import ClassifierModel, ClipModel
from trainer.spec_checks.metrics import Task

TEXT_BATCH_SIZE = 256  # texts a forward pass; they are short beside images


@dataclass(frozen=True)
class Scorer:
    """One classifier of one model, which must be in eval mode when it scores."""

    task: Task
    class_names: tuple[str, ...]
    logits: Callable[[Encoded], Tensor]
    """Images -> (B, C) whose softmax are the probabilities."""
    has_probabilities: bool
    """Whether these are worth measuring."""


def zero_shot_scorer(model: ClipModel, class_names: Sequence[str], templates: Sequence[str], run: Pass) -> Scorer:
    """Cosines with the class embeddings, times the learned logit scale."""
    weights_dc = class_embeddings(model, class_names, templates, run)
    scale = model.module.logit_scale.detach().float().exp()

    def logits(encoded: Encoded) -> Tensor:
        return scale * (functional.normalize(encoded.embeddings, dim=-1) @ weights_dc)

    return Scorer("zero_shot", tuple(class_names), logits, has_probabilities=True)


def head_scorer(model: ClassifierModel, run: Pass) -> Scorer:
    """A classifier's own logits."""
    dtype = weight_dtype(model.module)

    def logits(encoded: Encoded) -> Tensor:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.autocast):
            return model.module(encoded.images.to(dtype)).float()

    return Scorer("classification", tuple(model.class_names), logits, has_probabilities=True)


def linear_probe_scorer(bank: FeatureBank, protocol: Protocol) -> Scorer:
    """A logistic regression fitted to the bank."""
    weight_cd, bias_c = linear_probe(bank, c=protocol.probe_c)

    def logits(encoded: Encoded) -> Tensor:
        return encoded.embeddings @ weight_cd.T + bias_c

    return Scorer("linear_probe", bank.class_names, logits, has_probabilities=False)


def neighbour_scorer(bank: FeatureBank, protocol: Protocol) -> Scorer:
    """Votes of the bank's images."""

    def logits(encoded: Encoded) -> Tensor:
        k, temperature = protocol.neighbours, protocol.temperature
        return neighbour_votes(bank, encoded.embeddings, neighbours=k, temperature=temperature)

    return Scorer("knn", bank.class_names, logits, has_probabilities=False)


def class_embeddings(model: ClipModel, class_names: Sequence[str], templates: Sequence[str], run: Pass) -> Tensor:
    """Unit-norm zero-shot class weights (D, C), the same on all ranks."""
    return zero_shot_weights(
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
