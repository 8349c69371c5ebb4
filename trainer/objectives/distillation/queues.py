"""Losses that compare how student and teacher lie to remembered embeddings: SEED and CompRess."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from trainer.objectives.gathering import gather


class Queue:
    """The most recent embeddings of all ranks, unit vectors drawn by a seed to begin with."""

    def __init__(self, size: int, *, seed: int) -> None:
        self._size, self._seed = size, seed
        self.state: dict[str, Tensor] = {}

    def anchors(self, like: Tensor) -> Tensor:
        """(size, D), on the device and in the width of `like`."""
        if not self.state:
            generator = torch.Generator().manual_seed(self._seed)
            drawn = F.normalize(torch.randn(self._size, like.shape[1], generator=generator), dim=1)
            self.state = {"anchors": drawn.to(like.device), "next": torch.zeros((), dtype=torch.int64)}
        return self.state["anchors"]

    def add(self, features: Tensor) -> None:
        """Put the features of all ranks in place of the oldest. All ranks must call it."""
        newest = gather(features)[-self._size :]
        first = int(self.state["next"])
        places = (first + torch.arange(len(newest), device=newest.device)) % self._size
        self.state["anchors"] = self.state["anchors"].index_copy(0, places, newest)
        self.state["next"] = torch.tensor((first + len(newest)) % self._size)


class CompRess:
    """Kullback-Leibler divergence of similarities to a queue (CompRess, https://arxiv.org/abs/2010.14713).

    With one queue both are compared with the teacher's anchors; with two, each with its own, and embeddings of both
    may differ in size.
    """

    def __init__(self, *, num_queues: int, queue_size: int, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._teacher_queue = Queue(queue_size, seed=seed)
        self._student_queue = self._teacher_queue if num_queues == 1 else Queue(queue_size, seed=seed + 1)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over this rank's (B, D) embeddings, which then join the queues."""
        targets = F.log_softmax(teacher @ self._teacher_queue.anchors(teacher).T / self._temperature, dim=1)
        logits = student @ self._student_queue.anchors(student).T / self._temperature
        loss = F.kl_div(F.log_softmax(logits, dim=1), targets, reduction="batchmean", log_target=True)
        self._teacher_queue.add(teacher)
        if self._student_queue is not self._teacher_queue:
            self._student_queue.add(student)
        return loss

    @property
    def state(self) -> dict[str, Tensor]:
        """What is remembered."""
        state = {f"teacher.{key}": value for key, value in self._teacher_queue.state.items()}
        if self._student_queue is not self._teacher_queue:
            state |= {f"student.{key}": value for key, value in self._student_queue.state.items()}
        return state

    @state.setter
    def state(self, state: dict[str, Tensor]) -> None:
        for prefix, queue in (("teacher.", self._teacher_queue), ("student.", self._student_queue)):
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            queue.state = own or queue.state


class Seed:
    """Cross-entropy over similarities to the teacher's own embedding and its queue (https://arxiv.org/abs/2101.04731)."""

    def __init__(self, *, queue_size: int, temperature: float, student_temperature: float, seed: int) -> None:
        self._temperature, self._student_temperature = temperature, student_temperature
        self._queue = Queue(queue_size, seed=seed)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over this rank's (B, D) embeddings; the teacher's then join the queue."""
        anchors = self._queue.anchors(teacher)
        targets = (_with_own(teacher, teacher, anchors) / self._temperature).softmax(dim=1)
        loss = F.cross_entropy(_with_own(student, teacher, anchors) / self._student_temperature, targets)
        self._queue.add(teacher)
        return loss

    @property
    def state(self) -> dict[str, Tensor]:
        """What is remembered."""
        return self._queue.state

    @state.setter
    def state(self, state: dict[str, Tensor]) -> None:
        self._queue.state = state


def _with_own(features: Tensor, own: Tensor, anchors: Tensor) -> Tensor:
    """(B, 1 + Q): cosines with the row of `own`, and with all anchors."""
    return torch.cat([(features * own).sum(dim=1, keepdim=True), features @ anchors.T], dim=1)
