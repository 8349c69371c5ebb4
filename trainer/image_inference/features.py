"""Features of an image tower by stage, in mmpretrain's terms: `backbone`, `neck`, `pre_logits`; always a tuple.

| tower | backbone | neck | pre_logits |
|---|---|---|---|
| ViT (also timm's other token models) | (B, D) behind the last norm, pooled | the same | the same |
| CLIP's ViT with its text tower | the same | the same | (B, E) in the shared space, not normalised |
| ResNet and other convolutional towers | (B, C, H, W), the last map | (B, C), its mean | (B, C) in front of the head |
| CLIP's ResNet in timm | (B, C, H, W) | (B, C) from attention pooling | the same |
| CLIP's ResNet with its text tower | (B, C, H, W) | (B, E) from attention pooling, in the shared space | the same |

D, C: the tower's width; E: the shared space's. What timm does between pooling and head (another layer in some models)
belongs to `pre_logits`.
"""

from __future__ import annotations

from typing import Literal, get_args

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import AttentionPool2d, RotAttentionPool2d
from torch import Tensor, nn

from trainer.errors import UnusableSpecError
from trainer.heads import ImageClassifier

Stage = Literal["backbone", "neck", "pre_logits"]


def check_stage(stage: str) -> None:
    """Refuse a stage that there is not.

    Raises:
        UnusableSpecError: naming those that there are.
    """
    if stage not in get_args(Stage):
        raise UnusableSpecError(f"stage is {stage!r}; allowed: {', '.join(get_args(Stage))}")


def clip_features(towers: nn.Module, images: Tensor, *, stage: Stage) -> tuple[Tensor, ...]:
    """Features (B, 3, H, W) -> see above, of the image tower of an image-text model."""
    return (
        (towers.encode_image(images),) if stage == "pre_logits" else tower_features(towers.visual, images, stage=stage)
    )


def classifier_features(classifier: ImageClassifier, images: Tensor, *, stage: Stage) -> tuple[Tensor, ...]:
    """Features (B, 3, H, W) -> see above, of a classifier of Attune; `pre_logits` is what its head sees."""
    if stage == "pre_logits":
        return (classifier.features(images),)
    return tower_features(classifier.trunk, images, stage=stage)


def tower_features(tower: nn.Module, images: Tensor, *, stage: Stage) -> tuple[Tensor, ...]:
    """Features (B, 3, H, W) -> see above, of an image tower of open_clip or a timm model.

    Raises:
        UnusableSpecError: the tower is of a kind whose inside is not known here.
    """
    if isinstance(tower, TimmModel):
        return timm_features(tower.trunk, images, stage=stage)
    if isinstance(tower, VisionTransformer):
        pooled, _ = tower._pool(tower.transformer(tower._embeds(images)))
        return (pooled,)
    if isinstance(tower, ModifiedResNet):
        return (_last_map(tower, images),) if stage == "backbone" else (tower(images),)
    if hasattr(tower, "forward_head"):
        return timm_features(tower, images, stage=stage)
    raise UnusableSpecError(f"stage {stage!r} of a {type(tower).__name__} is not known; use pre_logits")


def timm_features(model: nn.Module, images: Tensor, *, stage: Stage) -> tuple[Tensor, ...]:
    """Features (B, 3, H, W) -> see above, of a timm model."""
    features = model.forward_features(images)
    if stage == "pre_logits" or features.ndim != 4:
        return (model.forward_head(features, pre_logits=True),)
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        features = features.permute(0, 3, 1, 2)
    if stage == "backbone":
        return (features,)
    if any(isinstance(part, AttentionPool2d | RotAttentionPool2d) for part in model.modules()):
        return (model.forward_head(features, pre_logits=True),)
    return (features.mean(dim=(2, 3)),)


def _last_map(visual: ModifiedResNet, images: Tensor) -> Tensor:
    found = visual.forward_intermediates(images, indices=1, intermediates_only=True)
    return found["image_intermediates"][-1]
