"""The distillation objective: which embeddings are compared, and by which loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from trainer.errors import UnusableSpecError
from trainer.models import ClipModel
from trainer.objectives.distillation import coordinates
from trainer.objectives.distillation.prototypes import Dino, ProtoCpc, Prototypes
from trainer.objectives.distillation.queues import CompRess, Seed
from trainer.objectives.distillation.relations import rkd
from trainer.objectives.distillation.teacher import Teacher
from trainer.objectives.pair_losses import info_nce
from trainer.objectives.texts import Texts
from trainer.spec import DistillationObjective, JobSpec
from trainer.spec_checks.objective import SIZE_FREE_LOSSES

EmbeddingLoss = Callable[[Tensor, Tensor], Tensor]
"""From this rank's student and teacher embeddings, (B, D) each and unit norm, to a scalar."""


class Distillation:
    """A student that learns a frozen teacher's embeddings, and by choice InfoNCE beside it.

    Text prompts or captions are drawn once and read by both, each with its own tokenizer.
    """

    def __init__(
        self,
        objective: DistillationObjective,
        *,
        teacher: Teacher,
        losses: Mapping[str, EmbeddingLoss],
        student_texts: Texts | None,
        teacher_texts: Texts | None,
    ) -> None:
        self._objective, self._teacher, self._losses = objective, teacher, losses
        self._student_texts, self._teacher_texts = student_texts, teacher_texts

    @classmethod
    def build(
        cls,
        spec: JobSpec,
        objective: DistillationObjective,
        *,
        student: ClipModel,
        texts_for: Callable[[ClipModel], Texts] | None,
        device: torch.device,
    ) -> Self:
        """Load the teacher and make a loss for each tower; `texts_for` is None where no texts are read.

        Raises:
            ModelError: the teacher cannot be had.
        """
        teacher = Teacher(objective.teacher, spec=spec, student_preprocess=student.preprocess, device=device)
        towers = ("image", "text") if objective.towers == "both" else (objective.towers,)
        return cls(
            objective,
            teacher=teacher,
            losses={tower: embedding_loss(objective, seed=spec.seed) for tower in towers},
            student_texts=texts_for and texts_for(student),
            teacher_texts=texts_for and texts_for(teacher.model),
        )

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean over the compared towers, plus InfoNCE where it has a weight."""
        student, logit_scale = self._student_features(engine, batch)
        total = logit_scale.new_zeros(())
        for tower, loss in self._losses.items():
            own, target = student[tower], self._teacher_features(tower, batch)
            self._require_same_size(own, target)
            total = total + self._objective.weight / len(self._losses) * loss(own, target)
        if self._objective.contrastive_weight:
            pairs = info_nce(student["image"], student["text"], logit_scale=logit_scale)
            total = total + self._objective.contrastive_weight * pairs
        return total

    @property
    def state(self) -> dict[str, Tensor]:
        """What the losses remember from step to step, the same on every rank."""
        return {
            f"{tower}.{key}": value
            for tower, loss in self._losses.items()
            for key, value in getattr(loss, "state", {}).items()
        }

    @state.setter
    def state(self, state: Mapping[str, Tensor]) -> None:
        for tower, loss in self._losses.items():
            own = {key.removeprefix(f"{tower}."): v for key, v in state.items() if key.startswith(f"{tower}.")}
            if own:
                device = next(self._teacher.model.module.parameters()).device
                loss.state = {key: v if key.endswith("next") else v.to(device) for key, v in own.items()}

    def _student_features(self, engine: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Only the towers that some loss looks at are run."""
        if self._student_texts is None:
            image, _, logit_scale = engine(batch.images)[:3]
            return {"image": image.float()}, logit_scale.float()
        tokens = self._student_texts.tokens(batch)
        if "image" not in self._losses and not self._objective.contrastive_weight:
            _, text, logit_scale = engine(text=tokens)[:3]
            return {"text": text.float()}, logit_scale.float()
        image, text, logit_scale = engine(batch.images, tokens)[:3]
        return {"image": image.float(), "text": text.float()}, logit_scale.float()

    def _teacher_features(self, tower: str, batch: Batch) -> Tensor:
        if tower == "image":
            return self._teacher.encode_images(batch.images)
        assert self._teacher_texts is not None
        return self._teacher.encode_texts(self._teacher_texts.tokens(batch))

    def _require_same_size(self, student: Tensor, teacher: Tensor) -> None:
        if student.shape[1] != teacher.shape[1] and self._objective.loss not in SIZE_FREE_LOSSES:
            raise UnusableSpecError(
                f"objective.teacher {self._objective.teacher.name!r} has embeddings of size {teacher.shape[1]}, the "
                f"student of {student.shape[1]}; the loss {self._objective.loss!r} needs the same size, only "
                f"{' and '.join(SIZE_FREE_LOSSES)} do not"
            )


def embedding_loss(objective: DistillationObjective, *, seed: int) -> EmbeddingLoss:
    """A new instance of the loss that the spec names; `seed` draws first anchors and prototypes."""
    sharpness = {"temperature": objective.temperature, "student_temperature": objective.student_temperature}
    match objective.loss:
        case "rkd":
            weights = {"distance_weight": objective.rkd_distance_weight, "angle_weight": objective.rkd_angle_weight}
            return functools.partial(rkd, **weights)
        case "compress_1q" | "compress_2q":
            return CompRess(
                num_queues=1 if objective.loss == "compress_1q" else 2,
                queue_size=objective.queue_size,
                temperature=objective.temperature,
                seed=seed,
            )
        case "seed":
            return Seed(queue_size=objective.queue_size, seed=seed, **sharpness)
        case "dino":
            return Dino(Prototypes(objective.num_prototypes, seed=seed), **sharpness)
        case "proto_cpc":
            return ProtoCpc(Prototypes(objective.num_prototypes, seed=seed), **sharpness)
        case stateless:
            loss: EmbeddingLoss = getattr(coordinates, stateless)
            return loss
