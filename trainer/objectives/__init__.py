"""What a model is trained for. Each objective turns a batch into a loss; `build_objective` chooses by the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
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
from trainer.objectives.token_tables import TokenTables
from trainer.prompts import expand_templates
from trainer.spec import ClassPromptsObjective, ContrastiveObjective, JobSpec


class TrainingObjective(Protocol):
    """A loss over batches."""

    state: Mapping[str, Tensor]
    """What is remembered from step to step, the same on every rank; saved with checkpoints and set on resuming."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Run `engine` on this rank's micro-batch and return its mean loss, a scalar."""
        ...


def build_objective(
    spec: JobSpec,
    *,
    model: ClipModel | ClassifierModel,
    manifest: Manifest,
    device: torch.device,
    tables: TokenTables | None = None,
) -> TrainingObjective:
    """The objective that `spec.objective` names, over the samples of `manifest`.

    Args:
        tables: keeps the tokens of captions and prompts; None keeps them in memory.

    Raises:
        UnusableDataError: it needs captions or classes that the data do not have.
        UnusableSpecError: the teacher cannot be had or does not fit.
    """
    objective = spec.objective
    if isinstance(model, ClassifierModel):
        assert objective.name == "classification"
        return Classification(label_smoothing=objective.label_smoothing, mixing=_mixing(spec))
    assert objective.name != "classification"

    def texts_for(reader: ClipModel) -> Texts:
        return _texts(spec, model=reader, manifest=manifest, device=device, tables=tables or TokenTables())

    if objective.name == "distillation":
        needs_texts = objective.towers != "image" or objective.contrastive_weight > 0
        return Distillation.build(
            spec, objective, student=model, texts_for=texts_for if needs_texts else None, device=device
        )
    if objective.loss == "cross_entropy":
        _require_classes(manifest, objective=f"{objective.name} with loss cross_entropy")
        tokens = _class_tokens(spec, model=model, manifest=manifest, device=device, tables=tables or TokenTables())
        return ClassCrossEntropy(tokens, seed=spec.seed)
    return _pairs(objective, texts=texts_for(model))


def _pairs(objective: ContrastiveObjective | ClassPromptsObjective, *, texts: Texts) -> PairObjective:
    assert objective.loss != "cross_entropy"
    return PairObjective(texts, loss=objective.loss, same_class=objective.same_class)


def _texts(spec: JobSpec, *, model: ClipModel, manifest: Manifest, device: torch.device, tables: TokenTables) -> Texts:
    """Captions where the objective or the data have them, and prompts of the classes otherwise."""
    if spec.objective.name == "class_prompts" or (spec.objective.name == "distillation" and not manifest.num_captions):
        _require_classes(manifest, objective=spec.objective.name)
        return PromptTexts(_class_tokens(spec, model=model, manifest=manifest, device=device, tables=tables))
    if not manifest.num_captions:
        raise UnusableDataError("objective `contrastive` needs captions; for class folders use `class_prompts`")
    without = np.flatnonzero(np.diff(manifest.caption_bounds) == 0)
    if len(without):
        raise UnusableDataError(
            f"objective `{spec.objective.name}` needs a caption for each image; {len(without)} of the "
            f"{len(manifest)} training samples have none, such as {manifest.key(int(without[0]))!r}"
        )
    return CaptionTexts(manifest, tokenize=model.tokenize, tables=tables, device=device)


def _class_tokens(
    spec: JobSpec, *, model: ClipModel, manifest: Manifest, device: torch.device, tables: TokenTables
) -> Tensor:
    """(C, T, L) on the device."""
    templates = expand_templates(spec.data.templates)
    return tokenize_prompts(manifest.class_names, templates, tokenize=model.tokenize, tables=tables).to(device)


def _require_classes(manifest: Manifest, *, objective: str) -> None:
    if not manifest.class_names:
        raise UnusableDataError(f"objective {objective} needs a class for each image, and the training data have none")


def _mixing(spec: JobSpec) -> Mixing:
    augmentation = spec.data.augmentation
    return Mixing(
        augmentation.mixup, augmentation.cutmix, augmentation.mix_probability, augmentation.mix_switch_probability
    )
