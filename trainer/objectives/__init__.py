"""What a model is trained for. Each objective turns a batch into a loss; `build_objective` chooses by the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError
from trainer.models import ClassifierModel, ClipModel
from trainer.objectives.class_cross_entropy import ClassCrossEntropy
from trainer.objectives.classification import Classification
from trainer.objectives.distillation import Distillation
from trainer.objectives.mixing import Mixing
from trainer.objectives.pairs import PairObjective
from trainer.objectives.texts import CaptionTexts, PromptTexts, Texts, tokenize_prompts
from trainer.prompts import expand_templates
from trainer.spec import ClassPromptsObjective, ContrastiveObjective, DistillationObjective, JobSpec


class TrainingObjective(Protocol):
    """A loss over batches."""

    state: Mapping[str, Tensor]
    """What is remembered from step to step, the same on every rank; saved with checkpoints and set on resuming."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Run `engine` on this rank's micro-batch and return its mean loss, a scalar."""
        ...


def build_objective(
    spec: JobSpec, *, model: ClipModel | ClassifierModel, manifest: Manifest, device: torch.device
) -> TrainingObjective:
    """The objective that `spec.objective` names, over the samples of `manifest`.

    Raises:
        UnusableDataError: it needs captions or classes that the data do not have.
        UnusableSpecError: the teacher cannot be had or does not fit.
    """
    objective = spec.objective
    if isinstance(model, ClassifierModel):
        assert objective.name == "classification"
        return Classification(label_smoothing=objective.label_smoothing, mixing=_mixing(spec))
    assert objective.name != "classification"
    if objective.name == "distillation":
        return _distillation(spec, objective, model=model, manifest=manifest, device=device)
    if objective.loss == "cross_entropy":
        _require_classes(manifest, objective=f"{objective.name} with loss cross_entropy")
        tokens = tokenize_prompts(model.tokenize, manifest.class_names, expand_templates(spec.data.templates))
        return ClassCrossEntropy(tokens.to(device), seed=spec.seed)
    return _pairs(objective, texts=_texts(spec, model=model, manifest=manifest, device=device))


def _pairs(objective: ContrastiveObjective | ClassPromptsObjective, *, texts: Texts) -> PairObjective:
    assert objective.loss != "cross_entropy"
    return PairObjective(texts, loss=objective.loss, same_class=objective.same_class)


def _distillation(
    spec: JobSpec, objective: DistillationObjective, *, model: ClipModel, manifest: Manifest, device: torch.device
) -> Distillation:
    needs_texts = objective.towers != "image" or objective.contrastive_weight > 0

    def texts_for(reader: ClipModel) -> Texts | None:
        return _texts(spec, model=reader, manifest=manifest, device=device) if needs_texts else None

    return Distillation.build(spec, objective, student=model, texts_for=texts_for, device=device)


def _texts(spec: JobSpec, *, model: ClipModel, manifest: Manifest, device: torch.device) -> Texts:
    """Captions where the objective or the data have them, and prompts of the classes otherwise."""
    has_captions = bool(manifest.captions(0))
    if spec.objective.name == "class_prompts" or (spec.objective.name == "distillation" and not has_captions):
        _require_classes(manifest, objective=spec.objective.name)
        templates = expand_templates(spec.data.templates)
        return PromptTexts(
            tokenize=model.tokenize, class_names=manifest.class_names, templates=templates, device=device
        )
    if not has_captions:
        raise UnusableDataError("objective `contrastive` needs captions; for class folders use `class_prompts`")
    return CaptionTexts(
        tokenize=model.tokenize, captions=manifest.captions, labelled=bool(manifest.class_names), device=device
    )


def _require_classes(manifest: Manifest, *, objective: str) -> None:
    if not manifest.class_names:
        raise UnusableDataError(f"objective {objective} needs a class for each image, and the training data have none")


def _mixing(spec: JobSpec) -> Mixing:
    augmentation = spec.data.augmentation
    return Mixing(
        augmentation.mixup, augmentation.cutmix, augmentation.mix_probability, augmentation.mix_switch_probability
    )
