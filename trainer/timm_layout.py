"""Image classifiers in timm's own terms: an architecture, its arguments, and weights under timm's names.

| image tower | counterpart in timm |
|---|---|
| timm model, by itself or inside an open_clip model | itself |
| open_clip's ViT | `vit_*_clip_*`, with arguments for every size |
| open_clip's ResNet | `resnet50_clip` and its four larger relatives |

Where the tower ends in a projection into the shared space, the projection and the head become one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from open_clip import CLIPVisionCfg
from timm.models import byobnet, vision_transformer
from torch import Tensor, nn

from trainer.model_types import ClassifierModel

_VIT_SIZES = {  # (patch, width, layers): part of the architecture's name; arguments say the rest
    (32, 768, 12): "base_patch32",
    (16, 768, 12): "base_patch16",
    (14, 1024, 24): "large_patch14",
    (14, 1280, 32): "huge_patch14",
}
_RESNETS = {  # (layers, width) of open_clip's ModifiedResNet
    ((3, 4, 6, 3), 64): "resnet50_clip",
    ((3, 4, 23, 3), 64): "resnet101_clip",
    ((4, 6, 10, 6), 80): "resnet50x4_clip",
    ((6, 8, 18, 8), 96): "resnet50x16_clip",
    ((3, 15, 36, 10), 128): "resnet50x64_clip",
}
_UNMATCHED_VIT_OPTIONS = (
    "attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc",
)  # fmt: skip


class NoCounterpartError(ValueError):
    """timm has no model that computes the same; the text says what it lacks."""


@dataclass(frozen=True)
class TimmLayout:
    """What timm's `local-dir:` reads."""

    config: dict[str, Any]
    """config.json"""
    weights: dict[str, Tensor]
    """model.safetensors"""


@dataclass(frozen=True)
class _Counterpart:
    architecture: str
    model_args: dict[str, Any]

    def build(self, num_classes: int) -> nn.Module:
        """The model without memory for its weights."""
        with torch.device("meta"):
            return timm.create_model(self.architecture, num_classes=num_classes, **self.model_args)


def to_timm(model: ClassifierModel, state_dict: Mapping[str, Tensor]) -> TimmLayout:
    """Translate a classifier's whole weights (`trunk.*`, `head.*`).

    Raises:
        NoCounterpartError: timm has no model that computes the same.
    """
    counterpart = _counterpart(model.config)
    skeleton = counterpart.build(num_classes=len(model.class_names))
    classifier = classifier_name(skeleton)
    tower = {name.removeprefix("trunk."): t for name, t in state_dict.items() if name.startswith("trunk.")}
    if model.kind == "timm":
        weights = tower
    elif model.config["vision_cfg"].get("timm_model_name"):
        weights = {name.removeprefix("trunk."): t for name, t in tower.items() if name.startswith("trunk.")}
    else:
        weights = _converted(tower, skeleton)
    weight_cf, bias_c = _fold(state_dict["head.weight"], state_dict["head.bias"], weights, tower, classifier=classifier)
    is_convolution = skeleton.get_parameter(f"{classifier}.weight").ndim == 4  # of 1 x 1, as BiT's ResNets have it
    weights[f"{classifier}.weight"] = weight_cf[:, :, None, None] if is_convolution else weight_cf
    weights[f"{classifier}.bias"] = bias_c
    _check_shapes(weights, skeleton)
    return TimmLayout(_config(model, counterpart, skeleton), weights)


def _counterpart(config: Mapping[str, Any]) -> _Counterpart:
    if "architecture" in config:
        return _Counterpart(config["architecture"], dict(config["model_args"]))
    vision = CLIPVisionCfg(**config["vision_cfg"])
    if vision.timm_model_name:
        return _timm_tower(vision)
    if isinstance(vision.layers, (list, tuple)):
        return _resnet_tower(vision)
    return _vit_tower(vision, quick_gelu=bool(config.get("quick_gelu", False)))


def _timm_tower(vision: CLIPVisionCfg) -> _Counterpart:
    if vision.timm_proj == "mlp":
        raise NoCounterpartError("timm classifiers have no MLP between the image tower and the head")
    if vision.timm_pool in ("abs_attn", "rot_attn"):
        raise NoCounterpartError(f"the tower's pooling {vision.timm_pool!r} is open_clip's own, not the timm model's")
    arguments: dict[str, Any] = {"global_pool": vision.timm_pool} if vision.timm_pool else {}
    own = timm.get_pretrained_cfg(vision.timm_model_name)
    if own is not None and own.fixed_input_size and vision.image_size != own.input_size[-1]:
        arguments["img_size"] = vision.image_size
    return _Counterpart(vision.timm_model_name, arguments)


def _resnet_tower(vision: CLIPVisionCfg) -> _Counterpart:
    architecture = _RESNETS.get((tuple(vision.layers), vision.width))
    if architecture is None or vision.head_width != 64:
        known = ", ".join(_RESNETS.values())
        raise NoCounterpartError(
            f"timm has no CLIP ResNet of layers {list(vision.layers)}, width {vision.width}, head width"
            f" {vision.head_width}; it has {known}"
        )
    return _Counterpart(architecture, {"img_size": vision.image_size})


def _vit_tower(vision: CLIPVisionCfg, *, quick_gelu: bool) -> _Counterpart:
    unmatched = [option for option in _UNMATCHED_VIT_OPTIONS if getattr(vision, option)]
    if unmatched or vision.block_type not in (None, "default"):
        options = ", ".join(unmatched) or f"block_type {vision.block_type}"
        raise NoCounterpartError(f"timm's CLIP ViT lacks open_clip's {options}")
    if vision.pool_type == "none":
        raise NoCounterpartError("the image tower does not pool its tokens")
    size = _VIT_SIZES.get((vision.patch_size, vision.width, vision.layers), "base_patch16")
    average = vision.pool_type == "avg"
    return _Counterpart(
        f"vit_{size}_clip_{'quickgelu_' if quick_gelu else ''}224",
        {
            "img_size": vision.image_size,
            "patch_size": vision.patch_size,
            "embed_dim": vision.width,
            "depth": vision.layers,
            "num_heads": vision.width // vision.head_width,
            "mlp_ratio": vision.mlp_ratio,
            "init_values": vision.ls_init_value,
            "pre_norm": not vision.no_ln_pre,
            "global_pool": "avg" if average else "token",
            "fc_norm": average and vision.final_ln_after_pool,
            "act_layer": _activation(vision, quick_gelu=quick_gelu),
            **_norm(vision),
        },
    )


def _activation(vision: CLIPVisionCfg, *, quick_gelu: bool) -> str:
    if not vision.act_kwargs:
        return "quick_gelu" if quick_gelu else "gelu"
    if vision.act_kwargs == {"approximate": "tanh"} and not quick_gelu:
        return "gelu_tanh"
    raise NoCounterpartError(f"timm's CLIP ViT has no activation with {vision.act_kwargs}")


def _norm(vision: CLIPVisionCfg) -> dict[str, Any]:
    eps = (vision.norm_kwargs or {}).get("eps", 1e-5)
    if set(vision.norm_kwargs or {}) - {"eps"} or eps not in (1e-5, 1e-6):
        raise NoCounterpartError(f"timm's CLIP ViT has layer norm with eps 1e-5 or 1e-6, not {vision.norm_kwargs}")
    return {} if eps == 1e-5 else {"norm_layer": "layernorm"}  # timm's own default eps is 1e-6


def _converted(tower: Mapping[str, Tensor], skeleton: nn.Module) -> dict[str, Tensor]:
    """Weights of an open_clip ViT or ResNet under timm's names, by timm's converters and what these leave out."""
    prefixed = {f"visual.{name}": tensor for name, tensor in tower.items()}
    if isinstance(skeleton, byobnet.ByobNet):
        return byobnet.checkpoint_filter_fn(prefixed, skeleton)
    weights = vision_transformer.checkpoint_filter_fn(prefixed, skeleton)
    weights = {name.replace(".ls_", ".ls"): tensor for name, tensor in weights.items()}
    if isinstance(skeleton.norm, nn.Identity):
        weights = {f"fc_{name}" if name.startswith("norm.") else name: tensor for name, tensor in weights.items()}
    if skeleton.patch_embed.proj.bias is not None:
        weights["patch_embed.proj.bias"] = torch.zeros(len(weights["patch_embed.proj.weight"]))
    return weights


def _fold(
    weight_cd: Tensor, bias_c: Tensor, weights: dict[str, Tensor], tower: Mapping[str, Tensor], *, classifier: str
) -> tuple[Tensor, Tensor]:
    """Join the head (D -> C) with the projection (F -> D) before it, if there is one, into (F -> C).

    The projection is either where timm has its classifier, or open_clip's own layer behind the timm model.
    """
    source, name = (weights, classifier) if f"{classifier}.weight" in weights else (tower, "head.proj")
    if f"{name}.weight" not in source:
        return weight_cd, bias_c
    projection_df = source[f"{name}.weight"].flatten(1).double()
    offset_d = source.get(f"{name}.bias")
    weight_cf = weight_cd.double() @ projection_df
    if offset_d is not None:
        bias_c = (bias_c.double() + weight_cd.double() @ offset_d.double()).to(bias_c.dtype)
    return weight_cf.to(weight_cd.dtype), bias_c


def classifier_name(skeleton: nn.Module) -> str:
    """Name of the last layer inside a timm model."""
    classifier = skeleton.get_classifier()
    if isinstance(classifier, (nn.Linear, nn.Conv2d)):
        return next(name for name, module in skeleton.named_modules() if module is classifier)
    if isinstance(classifier, nn.Module) and isinstance(getattr(classifier, "proj", None), nn.Linear):
        return next(name for name, module in skeleton.named_modules() if module is classifier.proj)
    raise NoCounterpartError(f"{type(skeleton).__name__} of timm does not end in one linear layer")


def _check_shapes(weights: Mapping[str, Tensor], skeleton: nn.Module) -> None:
    expected = {name: tensor.shape for name, tensor in skeleton.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        shown = "; ".join(f"{name}: timm has {expected.get(name)}, the model {found.get(name)}" for name in wrong[:3])
        raise NoCounterpartError(f"{len(wrong)} weights have no place in timm's model ({shown})")


def _config(model: ClassifierModel, counterpart: _Counterpart, skeleton: nn.Module) -> dict[str, Any]:
    size = model.preprocess.image_size
    source = skeleton.pretrained_cfg
    return {
        "architecture": counterpart.architecture,
        "num_classes": len(model.class_names),
        "num_features": skeleton.num_features,
        "label_names": list(model.class_names),
        "model_args": counterpart.model_args,
        "pretrained_cfg": {
            "tag": "attune",
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": bool(source.get("fixed_input_size", False)),
            "interpolation": model.preprocess.interpolation,
            "crop_pct": model.preprocess.crop_pct,
            "crop_mode": "squash" if model.preprocess.resize_mode == "squash" else "center",
            "mean": list(model.preprocess.mean),
            "std": list(model.preprocess.std),
            "num_classes": len(model.class_names),
            "first_conv": source.get("first_conv"),
            "classifier": source.get("classifier"),
        },
    }
