"""Relational knowledge distillation: distances and angles between the embeddings of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from trainer.errors import UnusableSpecError


def rkd(student: Tensor, teacher: Tensor, *, distance_weight: float, angle_weight: float) -> Tensor:
    """Huber losses of distances between pairs and of angles in triples (RKD, https://arxiv.org/abs/1904.05068).

    Within this rank's micro-batch of B, since there are B^3 angles. Embeddings of both may differ in size.

    Raises:
        UnusableSpecError: distances have a weight, and all embeddings of a side are the same, as where there is one.

    Args:
        distance_weight: of distances, each divided by the mean distance of its own side.
        angle_weight: of the cosines of the angles at the middle of three.
    """
    loss = student.new_zeros(())
    if distance_weight:
        loss = loss + distance_weight * F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
    if angle_weight:
        loss = loss + angle_weight * F.smooth_l1_loss(_cosines(student), _cosines(teacher))
    return loss


def _relative_distances(features: Tensor) -> Tensor:
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    between_different = distances[distances > 0]
    if not len(between_different):
        raise UnusableSpecError(
            f"objective.loss: `rkd` compares distances, and the {len(features)} embeddings of a micro-batch are all "
            "the same; use a batch.micro_size of 2 or more, or objective.rkd_distance_weight 0"
        )
    return distances / between_different.mean()


def _cosines(features: Tensor) -> Tensor:
    """(B, B, B): at [i, j, k] the cosine between the directions from sample i to samples j and k."""
    directions = F.normalize(features[None] - features[:, None], dim=2)  # (B, B, D)
    return directions @ directions.transpose(1, 2)
