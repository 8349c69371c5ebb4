"""How a classifier's head starts: from the text tower, from a linear probe, small and random, or as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dali_pipelines.loader import EvalLoader
from dali_pipelines.manifest import Manifest
from trainer import heads
from trainer.errors import UnusableSpecError
from trainer.evaluation.features import inference
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.models import ClassifierModel, ClipModel, image_projection
from trainer.prompts import expand_templates
from trainer.spec import JobSpec

_NORM_SAMPLES = 64  # images that set the temperature of a head made from text


def init_head(
    classifier: ClassifierModel,
    *,
    clip: ClipModel | None,
    spec: JobSpec,
    train: Manifest,
    validation: Manifest | None,
    probe_file: Path | None = None,
) -> None:
    """Give a classifier's head the first weights that `spec.objective.head` asks for; `keep` leaves those it has.

    Args:
        classifier: changed in place.
        clip: the image-text model that its tower is of, for `zero_shot`.
        spec: the job.
        train: training data.
        validation: held-out data, or None.
        probe_file: where a fitted probe is kept, for `probe`, or None.
    """
    assert spec.objective.name == "classification"
    if spec.objective.head == "zero_shot":
        assert clip is not None
        _init_from_text(classifier, clip=clip, spec=spec, train=train)
    elif spec.objective.head == "fresh":
        heads.init_fresh_head(classifier.module.head, scale=spec.objective.head_init_scale)
    elif spec.objective.head == "probe":
        from trainer.probe_head import init_probe_head

        init_probe_head(classifier, train=train, validation=validation, spec=spec, file=probe_file)


def _init_from_text(classifier: ClassifierModel, *, clip: ClipModel, spec: JobSpec, train: Manifest) -> None:
    with inference(clip.module):
        class_weights = zero_shot_weights(
            clip.module,
            clip.tokenize,
            train.class_names,
            expand_templates(spec.data.templates),
            device=torch.device("cpu"),
        )
        projected = classifier.features == "projected"
        heads.init_zero_shot_head(
            classifier.module.head,
            class_weights_dc=class_weights,
            projection_fd=None if projected else image_projection(clip.module.visual),
            logit_scale=clip.module.logit_scale.exp().item(),
            feature_norm=1.0 if projected else _mean_feature_norm(clip, spec=spec, train=train),
        )


def _mean_feature_norm(clip: ClipModel, *, spec: JobSpec, train: Manifest) -> float:
    spread = np.linspace(0, len(train) - 1, min(_NORM_SAMPLES, len(train))).astype(int)  # over all classes
    sample = train.select(spread)
    loader = EvalLoader(sample, preprocess=clip.preprocess, batch_size=16, on_bad_sample=spec.data.on_bad_sample)
    features = torch.cat([clip.module.encode_image(batch.images) for batch in loader])  # (N, D)
    return float(features.norm(dim=-1).mean())


def with_classes(
    classifier: ClassifierModel, class_names: Sequence[str], *, features: heads.Features
) -> ClassifierModel:
    """An exported classifier with its head's rows in the order of `class_names`.

    A structure, which knows the number of its classes only, keeps the order.

    Raises:
        UnusableSpecError: it has other classes, or its head sees other features.
    """
    _refuse_other_features(classifier, features)
    head, known = classifier.module.head, classifier.class_names
    if head.weight.is_meta and len(known) == len(class_names):
        return classifier
    if set(known) != set(class_names):
        lacking, unknown = sorted(set(class_names) - set(known)), sorted(set(known) - set(class_names))
        raise UnusableSpecError(
            f"objective.head `keep`: {classifier.name!r} has {len(known)} classes and the training data "
            f"{len(class_names)}; the head lacks {_shown(lacking)}; the data lack {_shown(unknown)}. Use `fresh` or "
            "`probe` for other classes"
        )
    order = [known.index(name) for name in class_names]
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    return replace(classifier, class_names=tuple(class_names))


def with_new_head(
    classifier: ClassifierModel, class_names: Sequence[str], *, features: heads.Features
) -> ClassifierModel:
    """An exported classifier with an untrained head for `class_names` in place of its own.

    Raises:
        UnusableSpecError: its head sees other features.
    """
    _refuse_other_features(classifier, features)
    with torch.device(classifier.module.head.weight.device):
        classifier.module.head = nn.Linear(classifier.module.head.in_features, len(class_names))
    return replace(classifier, class_names=tuple(class_names))


def _refuse_other_features(classifier: ClassifierModel, features: heads.Features) -> None:
    if classifier.features != features:
        raise UnusableSpecError(
            f"objective.features {features!r}: {classifier.name!r} was trained on {classifier.features!r} features; use"
            " that"
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"
