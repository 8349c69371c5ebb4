"""What a model is trained for. Each objective turns a batch into a loss; `build_objective` chooses by the spec."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableSpecError
from trainer.models import ClassifierModel, ClipModel
from trainer.objectives.class_prompts import ClassPrompts
from trainer.objectives.classification import Classification
from trainer.objectives.contrastive import Contrastive
from trainer.prompts import expand_templates
from trainer.spec import JobSpec


class TrainingObjective(Protocol):
    """A loss over batches."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Run `engine` on this rank's micro-batch and return its mean loss, a scalar."""
        ...


def build_objective(
    spec: JobSpec, *, model: ClipModel | ClassifierModel, manifest: Manifest, device: torch.device
) -> TrainingObjective:
    """The objective that `spec.objective` names, over the samples of `manifest`."""
    if isinstance(model, ClassifierModel):
        assert spec.objective.name == "classification"
        return Classification(label_smoothing=spec.objective.label_smoothing)
    if spec.objective.name == "class_prompts":
        return ClassPrompts(
            tokenize=model.tokenize,
            class_names=manifest.class_names,
            templates=expand_templates(spec.data.templates),
            device=device,
        )
    if not manifest.captions(0):
        raise UnusableSpecError("objective `contrastive` needs captions; for class folders use `class_prompts`")
    return Contrastive(tokenize=model.tokenize, captions=manifest.captions, device=device)
