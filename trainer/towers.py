"""Image-text models as open_clip builds them, and what Attune adds: projection heads, a learned prompt, held towers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from trainer.freezing import HoldsTowers

ADDITIONS = ("image_head", "text_head", "text_prompt")
"""Submodules that open_clip's models do not have."""


def construct(config: Mapping[str, Any], *, device: str | None = "meta") -> nn.Module:
    """The model that open_clip makes of a model_cfg, by default without memory for its weights.

    Its logit scale has shape (1,). With `device` None it is made where torch makes tensors at the moment.
    """
    arguments = copy.deepcopy(dict(config))
    custom = arguments.pop("custom_text", False) or "hf_model_name" in arguments["text_cfg"]
    arguments["vision_cfg"]["timm_model_pretrained"] = False
    arguments["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP
    with nullcontext() if device is None else torch.device(device):
        return kind(**arguments, nonscalar_logit_scale=True)


class _Additions(HoldsTowers):
    """Projection heads on the towers' features and a learned prompt in front of the text; each may be None."""

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        features = super().encode_image(image)
        if self.image_head is not None:
            features = self.image_head(features)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """(B, L) tokens -> (B, D); a learned prompt takes its length off L."""
        if self.text_prompt is not None:
            text = self.text_prompt.with_room(text)
        features = super().encode_text(text)
        if self.text_head is not None:
            features = self.text_head(features)
        return F.normalize(features, dim=-1) if normalize else features


class ExtendedClip(_Additions, open_clip.CLIP):
    """open_clip's CLIP with additions."""


class ExtendedCustomTextClip(_Additions, open_clip.CustomTextCLIP):
    """open_clip's CustomTextCLIP with additions."""


def extend(module: nn.Module) -> ExtendedClip | ExtendedCustomTextClip:
    """`module` itself, of a class that can take additions; the names of its parameters stay as they are.

    The class is exchanged in place, as torch's own parametrizations do it: the weights exist once, and under ZeRO, in
    exports and in patterns every name is open_clip's.
    """
    if isinstance(module, (ExtendedClip, ExtendedCustomTextClip)):
        return module
    module.__class__ = ExtendedCustomTextClip if isinstance(module, open_clip.CustomTextCLIP) else ExtendedClip
    for name in ADDITIONS:
        setattr(module, name, None)
    module.held_towers = ()
    return module


def has_additions(module: nn.Module) -> bool:
    """Whether open_clip alone could not compute the same."""
    return any(getattr(module, name, None) is not None for name in ADDITIONS)


def text_tower(module: nn.Module) -> nn.Module:
    """What holds the text transformer: `module.text`, or the model itself where open_clip keeps it flat."""
    return module.text if hasattr(module, "text") else module


def image_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The image tower's parameters by their names within it."""
    return dict(module.visual.named_parameters())


def text_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The text tower's parameters by their names within it, without logit scale, logit bias and additions."""
    if hasattr(module, "text"):
        return dict(module.text.named_parameters())
    foreign = ("visual", "logit_scale", "logit_bias", *ADDITIONS)
    return {name: p for name, p in module.named_parameters() if name.partition(".")[0] not in foreign}


def text_modules(module: nn.Module) -> tuple[str, ...]:
    """Names of the submodules of `module` that make up its text tower."""
    return ("text",) if hasattr(module, "text") else ("transformer", "token_embedding", "ln_final")
