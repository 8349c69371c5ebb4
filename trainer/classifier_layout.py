"""Attune's own layout of image classifiers, for those that timm cannot represent.

    config.json                what the tower is (`kind`, `config`), what the head sees (`features`), `label_names`
    image_tower.safetensors    the tower's weights, under the names of open_clip's image tower or timm's model
    head.safetensors           `weight` (classes, features) and `bias` (classes)
    README.md  attune.json     as every export has them

Such are classifiers on unit-norm embeddings (WiSE-FT), and towers that timm has no counterpart of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dali_pipelines.transforms import Preprocess
from trainer.heads import ImageClassifier
from trainer.model_sources import ModelError, first_line, read_export
from trainer.model_types import ClassifierModel, ClipModel, NoTokenizer
from trainer.models import clip_classifier
from trainer.outside_configs import check_timm_structure, checked_model_cfg
from trainer.towers import construct

LAYOUT = "attune"
_NO_TEXT = {"width": 8, "heads": 1, "layers": 1, "vocab_size": 8, "context_length": 8}


def is_own(folder: Path) -> bool:
    """Whether a folder holds a classifier in this layout."""
    return read_config(folder).get("layout") == LAYOUT


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` holds; empty where there is none."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is no valid JSON: {first_line(error)}") from None
    return content if isinstance(content, dict) else {}


def describe(model: ClassifierModel) -> dict[str, Any]:
    """`config.json` of a classifier."""
    config = {name: value for name, value in model.config.items() if name not in ("text_cfg", "custom_text")}
    return {
        "layout": LAYOUT,
        "kind": model.kind,
        "config": config,
        "features": model.features,
        "num_classes": len(model.class_names),
        "label_names": list(model.class_names),
    }


def split(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A classifier's whole weights by the file that they belong to."""
    files: dict[str, dict[str, Tensor]] = {"image_tower.safetensors": {}, "head.safetensors": {}}
    for name, tensor in state_dict.items():
        part, _, rest = name.partition(".")
        files["head.safetensors" if part == "head" else "image_tower.safetensors"][rest] = tensor
    return files


def read(folder: Path, *, weights: bool = True) -> ClassifierModel:
    """The classifier in `folder`; without `weights` on the meta device.

    Raises:
        ModelError: the folder is not whole.
    """
    stored, described = read_config(folder), read_export(folder).get("preprocess")
    if not described:
        raise ModelError(f"{folder} holds a classifier of Attune, but its attune.json says nothing of preprocessing")
    preprocess = Preprocess(**described | {"mean": tuple(described["mean"]), "std": tuple(described["std"])})
    with torch.device("cpu" if weights else "meta"):
        model = _built(stored, preprocess=preprocess, name=f"local-dir:{folder}")
    if weights:
        try:
            model.module.trunk.load_state_dict(load_file(folder / "image_tower.safetensors"))
            model.module.head.load_state_dict(load_file(folder / "head.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder} holds no whole classifier: {first_line(error)}") from error
    return model


def _built(stored: Mapping[str, Any], *, preprocess: Preprocess, name: str) -> ClassifierModel:
    config, class_names, features = dict(stored["config"]), tuple(stored["label_names"]), stored["features"]
    if stored["kind"] == "timm":
        check_timm_structure(config.get("architecture"), config.get("model_args"), origin=name)
        trunk = timm.create_model(config["architecture"], pretrained=False, num_classes=0, **config["model_args"])
        num_features = getattr(trunk, "head_hidden_size", trunk.num_features)
        module = ImageClassifier(trunk, num_features=num_features, num_classes=len(class_names))
        return ClassifierModel(module, config, preprocess, class_names, name, "timm", features)
    config["text_cfg"] = _NO_TEXT
    config = checked_model_cfg(config, origin=name)
    clip = ClipModel(construct(config, device=None), config, preprocess, NoTokenizer(8), name)
    return clip_classifier(clip, class_names=class_names, features=features)
