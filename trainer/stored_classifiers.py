"""Classifiers out of folders, with their trained heads, in whichever layout they were stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm
import torch

from trainer import classifier_layout
from trainer.models import ClassifierModel, ModelError, load_timm_classifier, read_export
from trainer.spec import ModelSpec
from trainer.timm_layout import classifier_name


def read_classifier(folder: Path, *, image_size: int | None = None, weights: bool = True) -> ClassifierModel:
    """A classifier out of a folder in timm's layout or Attune's own, such as an export, with its trained head.

    Args:
        folder: the folder.
        image_size: input size in pixels, if not the exported one; position embeddings are interpolated.
        weights: False builds it on the meta device.

    Raises:
        ModelError: it is none, says nothing about its classes, or cannot have that input size.
    """
    if classifier_layout.is_own(folder):
        if image_size is not None:
            raise ModelError(f"model.image_size {image_size}: {folder} keeps the input size that it was exported with")
        return classifier_layout.read(folder, weights=weights)
    config = classifier_layout.read_config(folder)
    if not config:
        raise ModelError(f"{folder} holds no classifier: it has no config.json")
    class_names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    if not class_names:
        raise ModelError(f"{folder}/config.json has no label_names: the classes of its classifier are unknown")
    stored = read_export(folder)
    model = load_timm_classifier(
        ModelSpec(name=f"local-dir:{folder}", image_size=image_size),
        class_names=class_names,
        exif=stored.get("preprocess", {}).get("exif", "ignore"),
        weights=weights,
    )
    if weights:
        _copy_head(folder, model)
    return replace(model, features=stored.get("features", "pooled"))


def _copy_head(folder: Path, model: ClassifierModel) -> None:
    whole = timm.create_model(f"local-dir:{folder}", pretrained=True)
    head = whole.get_submodule(classifier_name(whole))
    with torch.no_grad():
        model.module.head.weight.copy_(head.weight.flatten(1))
        model.module.head.bias.copy_(head.bias)
