"""Models by name: open_clip's image-text models and timm's image models, ready to train.

    ViT-L-14/openai      open_clip architecture and pretrained tag
    ViT-L-14             the architecture with fresh weights; `trainer/architectures/` adds small ones
    hf-hub:ORG/NAME      a model repository in open_clip's layout
    local-dir:PATH       a folder in open_clip's or (for classification) timm's layout, such as an export of Attune
    timm/NAME.TAG        a timm image model, for classification

Weights come from the hub's cache, or from `ATTUNE_WEIGHTS_DIR` on machines without a network, which holds
`ARCHITECTURE/TAG/`, `ORG/NAME/` and `timm/NAME.TAG/` folders with the hub's own file names.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import open_clip
from torch import Tensor, nn

from trainer import additions, tower_swap
from trainer.heads import Features, ImageClassifier
from trainer.model_sources import ModelError, locate, read_export
from trainer.model_types import ClassifierModel, ClipModel, Exif
from trainer.open_clip_models import load_base_clip
from trainer.spec import ModelSpec
from trainer.timm_models import load_timm_classifier

__all__ = [
    "ClassifierModel",
    "ClipModel",
    "ModelError",
    "clip_classifier",
    "image_projection",
    "load_clip",
    "load_timm_classifier",
    "read_export",
]


def load_clip(model: ModelSpec, *, exif: Exif = "ignore", weights: bool = True) -> ClipModel:
    """An image-text model with the towers and the context length that `model` asks for, and with what an export of
    Attune added to it: projection heads, a learned prompt.

    Without `weights` its module is on the meta device, it has no tokenizer, and nothing but perhaps a configuration
    file is downloaded.

    Raises:
        ModelError: the name is unknown, or its weights are not to be had.
        UnusableSpecError: the towers do not fit together.
    """
    source = locate(model.name)
    own_size = model if model.image.tower is None else model.model_copy(update={"image_size": None})
    clip = tower_swap.with_towers(load_base_clip(own_size, exif=exif, weights=weights), model, weights=weights)
    return clip if source.folder is None else additions.restored(clip, source.folder, weights=weights)


def clip_classifier(clip: ClipModel, *, class_names: Sequence[str], features: Features = "pooled") -> ClassifierModel:
    """An untrained linear head on a copy of `clip`'s image tower; `trainer.heads` initialises it.

    Raises:
        ModelError: the tower does not have such features.
    """
    trunk, config = copy.deepcopy(clip.module.visual), clip.config
    num_features = int(config["embed_dim"])
    if features == "mean_patches":
        config = _pool_patches(trunk, config)
    projection = image_projection(trunk)
    if projection is not None and features != "projected":
        trunk.proj = None
        num_features = int(projection.shape[0])
    module = ImageClassifier(
        trunk, num_features=num_features, num_classes=len(class_names), unit_norm=features == "projected"
    )
    return ClassifierModel(module, config, clip.preprocess, tuple(class_names), clip.name, "open_clip", features)


def image_projection(visual: nn.Module) -> Tensor | None:
    """The (F, D) matrix at the end of an open_clip ViT tower; None for towers that project inside."""
    projection = getattr(visual, "proj", None)
    return projection if isinstance(projection, Tensor) else None


def _pool_patches(trunk: nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """Make a ViT of open_clip average its patch tokens behind a fresh norm, as FT-CLIP does; the model_cfg of that.

    Raises:
        ModelError: the tower is another.
    """
    if not isinstance(trunk, open_clip.transformer.VisionTransformer) or trunk.attn_pool is not None:
        raise ModelError(
            f"objective.features: `mean_patches` needs a ViT of open_clip or timm without attention pooling, not "
            f"{type(trunk).__name__}; use `pooled`"
        )
    trunk.pool_type, trunk.final_ln_after_pool = "avg", False
    trunk.ln_post.reset_parameters()
    vision = {**config["vision_cfg"], "pool_type": "avg", "final_ln_after_pool": False}
    return {**config, "vision_cfg": vision}
