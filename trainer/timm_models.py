"""timm's image models by name, with a head for a job's classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from dali_pipelines.transforms import Preprocess
from trainer.heads import Features, ImageClassifier
from trainer.model_sources import ModelError, first_line, locate_timm, read_export
from trainer.model_types import ClassifierModel, Exif
from trainer.spec import ModelSpec


def load_timm_classifier(
    model: ModelSpec,
    *,
    class_names: Sequence[str],
    features: Features = "pooled",
    exif: Exif = "ignore",
    weights: bool = True,
) -> ClassifierModel:
    """A timm model with an untrained linear head for `class_names`; without `weights` it is on the meta device.

    Raises:
        ModelError: the name is unknown, its weights are not to be had, or it does not have such features.
    """
    name, pretrained, overlay = locate_timm(model.name)
    size: dict[str, Any] = {} if model.image_size is None else {"img_size": model.image_size}
    pooling: dict[str, Any] = {"global_pool": "avg", "fc_norm": False} if features == "mean_patches" else {}
    arguments = size | pooling
    try:
        with torch.device("cpu" if weights else "meta"):
            trunk = timm.create_model(
                name, pretrained=pretrained and weights, num_classes=0, pretrained_cfg_overlay=overlay, **arguments
            )
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise ModelError(f"model.name {model.name!r}: {first_line(error)}") from error
    if features == "mean_patches" and _stored_features(name) != features:
        _renew_final_norm(trunk)
    num_features = getattr(trunk, "head_hidden_size", trunk.num_features)  # some have layers between pooling and head
    with torch.device("cpu" if weights else "meta"):
        module = ImageClassifier(trunk, num_features=num_features, num_classes=len(class_names))
    return ClassifierModel(
        module,
        _timm_config(name, arguments),
        timm_preprocess(trunk, model.image_size, exif),
        tuple(class_names),
        model.name,
        "timm",
        features,
    )


def timm_preprocess(trunk: nn.Module, image_size: int | None, exif: Exif) -> Preprocess:
    """What a timm model was trained with."""
    config = timm.data.resolve_model_data_config(trunk)
    return Preprocess(
        image_size=image_size or int(config["input_size"][-1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize_mode="squash" if config["crop_mode"] == "squash" else "shortest",
        exif=exif,
        crop_pct=min(float(config["crop_pct"]), 1.0),  # VOLO's 1.15 would pad the image
    )


def _renew_final_norm(trunk: nn.Module) -> None:
    if not isinstance(trunk, timm.models.VisionTransformer) or not isinstance(trunk.norm, nn.LayerNorm):
        raise ModelError(
            f"objective.features: `mean_patches` needs a ViT with a final layer norm, not {type(trunk).__name__} of "
            "timm; use `pooled`"
        )
    trunk.norm.reset_parameters()


def _timm_config(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm needs to build the model again; a local folder says from what it was built."""
    if not name.startswith("local-dir:"):
        return {"architecture": name.partition(".")[0], "model_args": arguments}
    stored = json.loads((Path(name.removeprefix("local-dir:")) / "config.json").read_text(encoding="utf-8"))
    return {"architecture": stored["architecture"], "model_args": stored.get("model_args", {}) | arguments}


def _stored_features(name: str) -> str | None:
    """What the head of an export sees; its final norm is then a trained one."""
    return read_export(Path(name.removeprefix("local-dir:"))).get("features") if name.startswith("local-dir:") else None
