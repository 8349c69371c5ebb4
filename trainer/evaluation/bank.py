"""Features of a labelled training set, and the two classifiers that need nothing else: linear probe and k-NN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError
from trainer.evaluation.passes import Model, Pass, image_embeddings, over_dataset


@dataclass(frozen=True)
class FeatureBank:
    """(N, D) features of images that have a label, not normalised, the same on all ranks."""

    features_nd: Tensor
    labels_n: Tensor
    """(N,) int64 on the features' device."""
    class_names: tuple[str, ...]


def feature_bank(model: Model, train: Manifest, run: Pass) -> FeatureBank:
    """Encode a training set, without augmentation. All ranks call it.

    Raises:
        UnusableDataError: the data have no labels.
    """
    kept = np.flatnonzero(train.labels >= 0)
    if not len(kept) or not train.class_names:
        raise UnusableDataError("a linear probe and k-NN learn from labelled training data, and these have no labels")
    labelled = train if len(kept) == len(train) else train.select(kept)

    def features(batch: Batch) -> Tensor:
        return image_embeddings(model, batch.images, run)

    features_nd, rows = over_dataset(model, features, labelled, run)
    labels = torch.from_numpy(labelled.labels[rows].astype(np.int64)).to(features_nd.device)
    return FeatureBank(features_nd, labels, train.class_names)


def linear_probe(bank: FeatureBank, *, c: float) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of a logistic regression with inverse L2 strength `c`, on the bank's device."""
    from trainer.evaluation.linear_probe import fit_logistic  # scikit-learn takes a second to import

    weight, bias = fit_logistic(bank.features_nd, bank.labels_n, c=c, num_classes=len(bank.class_names))
    return weight.to(bank.features_nd.device), bias.to(bank.features_nd.device)


def neighbour_votes(bank: FeatureBank, queries_bd: Tensor, *, neighbours: int, temperature: float) -> Tensor:
    """Logarithm (B, C) of each class's votes among an image's nearest neighbours by cosine.

    A neighbour of similarity s votes with exp(s / temperature) (Wu et al. 2018, https://arxiv.org/abs/1805.01978, as
    in DINO); a class without votes has -inf.

    Raises:
        UnusableDataError: the bank holds fewer images than `neighbours`.
    """
    if neighbours > len(bank.labels_n):
        raise UnusableDataError(f"k-NN with k = {neighbours} needs as many training images, got {len(bank.labels_n)}")
    similarity_bn = functional.normalize(queries_bd, dim=-1) @ functional.normalize(bank.features_nd, dim=-1).T
    nearest_bk, index_bk = similarity_bn.topk(neighbours, dim=1)
    weights_bk = ((nearest_bk - 1) / temperature).exp()  # relative to a perfect match, so that nothing overflows
    votes_bc = weights_bk.new_zeros((len(queries_bd), len(bank.class_names)))
    return votes_bc.scatter_add_(1, bank.labels_n[index_bk], weights_bk).log()
