"""Losses over soft assignments to prototypes: DINO and ProtoCPC.

The prototypes are unit vectors drawn by a seed, the same for student and teacher, and stay: a teacher that does not
move has no use for trained ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from trainer.objectives.gathering import gather

_MOMENTUM = 0.9  # of DINO's centre and ProtoCPC's prior


class Prototypes:
    """Fixed directions in the shared space."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self._seed = count, seed
        self._directions: Tensor | None = None

    def logits(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, count) cosines."""
        if self._directions is None:
            generator = torch.Generator().manual_seed(self._seed)
            drawn = torch.randn(self.count, features.shape[1], generator=generator)
            self._directions = F.normalize(drawn, dim=1).to(features.device)
        return features @ self._directions.T


class Dino:
    """Cross-entropy of the student's assignments with the teacher's, centred (https://arxiv.org/abs/2104.14294)."""

    def __init__(self, prototypes: Prototypes, *, temperature: float, student_temperature: float) -> None:
        self._prototypes = prototypes
        self._temperature, self._student_temperature = temperature, student_temperature
        self.state: dict[str, Tensor] = {}

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over this rank's (B, D) embeddings; the centre then follows the teacher's over all ranks."""
        logits = self._prototypes.logits(teacher)
        centre = self.state.get("centre", torch.zeros_like(logits[0]))
        targets = ((logits - centre) / self._temperature).softmax(dim=1)
        loss = F.cross_entropy(self._prototypes.logits(student) / self._student_temperature, targets)
        self.state = {"centre": centre.lerp(gather(logits).mean(dim=0), 1 - _MOMENTUM)}
        return loss


class ProtoCpc:
    """Contrast of assignments, with a running prior over prototypes (https://openreview.net/forum?id=8la28hZOwug)."""

    def __init__(self, prototypes: Prototypes, *, temperature: float, student_temperature: float) -> None:
        self._prototypes = prototypes
        self._temperature, self._student_temperature = temperature, student_temperature
        self.state: dict[str, Tensor] = {}

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over this rank's (B, D) embeddings; the prior then follows the teacher's assignments over all ranks."""
        targets = (self._prototypes.logits(teacher) / self._temperature).softmax(dim=1)
        logits = self._prototypes.logits(student) / self._student_temperature
        prior = self.state.get("prior", torch.ones_like(targets[0]))  # mean 1
        loss = (torch.logsumexp(logits + prior.log(), dim=1) - (targets * logits).sum(dim=1)).mean()
        self.state = {"prior": prior.lerp(gather(targets).mean(dim=0) * self._prototypes.count, 1 - _MOMENTUM)}
        return loss
