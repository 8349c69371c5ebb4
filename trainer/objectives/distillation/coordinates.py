"""Losses that compare student and teacher embeddings coordinate by coordinate. Stateless functions of (B, D) pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from trainer.objectives.gathering import gather, gather_features

_VARIANCE_EPS = 1e-4  # under VICReg's square root
_NORM_EPS = 1e-5  # of Barlow Twins' batch normalisation
_REDUNDANCY_WEIGHT = 0.0051  # lambda of Barlow Twins


def simreg(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of unit-norm embeddings (SimReg, https://arxiv.org/abs/2201.05131)."""
    return F.mse_loss(student, teacher)


def simreg_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference, ITRA's variant of SimReg."""
    return F.l1_loss(student, teacher)


def simreg_smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean Huber loss with a threshold of 1, ITRA's variant of SimReg."""
    return F.smooth_l1_loss(student, teacher)


def vicreg(student: Tensor, teacher: Tensor) -> Tensor:
    """Invariance, variance and covariance, weighted 25, 25 and 1 (VICReg, https://arxiv.org/abs/2105.04906).

    Over the samples of all ranks, on unit-norm embeddings as ITRA has it. The terms of the teacher alone are constant
    and stay in the value.
    """
    student, teacher = gather_features(student), gather(teacher)
    spread = (_lack_of_spread(student) + _lack_of_spread(teacher)) / 2
    return 25 * F.mse_loss(student, teacher) + 25 * spread + _covariance(student) + _covariance(teacher)


def barlow_twins(student: Tensor, teacher: Tensor) -> Tensor:
    """The cross-correlation of both, drawn towards the identity (Barlow Twins, https://arxiv.org/abs/2103.03230).

    Over the samples of all ranks.
    """
    student, teacher = _standardised(gather_features(student)), _standardised(gather(teacher))
    correlation = student.T @ teacher / len(student)  # (D, D)
    diagonal = torch.diagonal(correlation)
    redundancy = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + _REDUNDANCY_WEIGHT * redundancy


def _lack_of_spread(features: Tensor) -> Tensor:
    return F.relu(1 - (features.var(dim=0) + _VARIANCE_EPS).sqrt()).mean()


def _covariance(features: Tensor) -> Tensor:
    """Squared covariances between coordinates, summed and divided by their number."""
    covariance = features.T.cov()
    return (covariance.square().sum() - torch.diagonal(covariance).square().sum()) / features.shape[1]


def _standardised(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    return centred / (features.var(dim=0, correction=0) + _NORM_EPS).sqrt()
