"""Where each parameter sits between a tower's input and its output: what layer-wise learning rates go by.

A tower of L transformer blocks has L + 2 layers. Layer 0 holds the embeddings, the patch convolution and the norm
before the first block, layer i + 1 holds block i, and layer L + 1 what comes after the last block: norm, projection,
head. CLIP's ResNets have 6: the stem, four stages and the attention pool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from timm.models import group_parameters
from torch import nn

from trainer.heads import ImageClassifier

_BLOCK = re.compile(
    r"(?:^|\.)(?:resblocks|blocks|encoder\.layers?|transformer\.layers?|encoder\.blocks?|encoder\.h)\.(\d+)\."
)
_RESNET_STAGE = re.compile(r"(?:^|\.)layer(\d+)\.")
_EMBEDDINGS = {
    *("class_embedding", "positional_embedding", "conv1", "patch_embed", "ln_pre", "norm_pre", "token_embedding"),
    *("cls_token", "reg_token", "pos_embed", "embeddings", "embed_tokens", "shared", "text_prompt"),
}
_IMAGE_HEAD = "image_head."


@dataclass(frozen=True)
class LayerPosition:
    """Where a parameter sits in its tower: layer 0 is next to the input, `top` next to the output."""

    layer: int
    top: int
    tower: Literal["image", "text"] = "image"


def layer_positions(module: nn.Module, *, itra: bool = False) -> dict[str, LayerPosition]:
    """The position of every parameter of an image-text model or an image classifier, by name.

    Args:
        itra: repeat what ITRA's code does. Embeddings, patch convolution and first norm count as the top layer, as
            their names are not recognised below a tower's prefix; a ResNet has ids 0 to 7, with the stem and any
            projection head at 1, stage k at k + 1 and the attention pool at 7.
    """
    prefix = "trunk." if isinstance(module, ImageClassifier) else "visual."
    names = [name for name, _ in module.named_parameters()]
    inside = {name: name.removeprefix(prefix) for name in names if name.startswith((prefix, _IMAGE_HEAD))}
    rest = [name for name in names if name not in inside]
    image = _image_positions(getattr(module, prefix.removesuffix(".")), list(inside.values()), itra=itra)
    positions = {name: image[own_name] for name, own_name in inside.items()}
    if isinstance(module, ImageClassifier):
        top = max((position.top for position in image.values()), default=0)
        return positions | {name: LayerPosition(top, top) for name in rest}
    text = _transformer_positions(rest, itra=itra)
    return positions | {name: replace(position, tower="text") for name, position in text.items()}


def _image_positions(tower: nn.Module, names: Sequence[str], *, itra: bool) -> dict[str, LayerPosition]:
    prefix, trunk = next(
        ((f"{name}.", m) if name else ("", m) for name, m in tower.named_modules() if hasattr(m, "group_matcher")),
        ("", None),
    )
    if trunk is not None and not any(name.startswith(f"{prefix}blocks.") for name in names):
        layers = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        top = max(layers.values()) + 1
        return {name: LayerPosition(layers.get(name.removeprefix(prefix), top), top) for name in names}
    if trunk is None and any(_RESNET_STAGE.search(name) for name in names):
        return _resnet_positions(names, itra=itra)
    return _transformer_positions(names, itra=itra)


def _transformer_positions(names: Sequence[str], *, itra: bool) -> dict[str, LayerPosition]:
    """Image and text transformers of open_clip, timm and Hugging Face."""
    blocks = {name: int(match[1]) for name in names if (match := _BLOCK.search(name))}
    top = max(blocks.values(), default=-1) + 2

    def layer(name: str) -> int:
        if name in blocks:
            return blocks[name] + 1
        return 0 if not itra and _EMBEDDINGS & set(name.split(".")) else top

    return {name: LayerPosition(layer(name), top) for name in names}


def _resnet_positions(names: Sequence[str], *, itra: bool) -> dict[str, LayerPosition]:
    shift, top = (1, 7) if itra else (0, 5)

    def layer(name: str) -> int:
        if match := _RESNET_STAGE.search(name):
            return int(match[1]) + shift
        if name.startswith("attnpool."):
            return top
        return top if name.startswith(_IMAGE_HEAD) and not itra else shift

    return {name: LayerPosition(layer(name), top) for name in names}
