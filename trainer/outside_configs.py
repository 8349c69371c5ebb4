"""What a model's configuration from outside may say: fields that describe a structure, none that load something else.

Folders, uploads and hub repositories bring JSON that open_clip and timm would hand on as keyword arguments: to
Hugging Face's tokenizers, where `trust_remote_code` runs the repository's Python, or as paths and names of weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import timm
from open_clip import CLIPTextCfg, CLIPVisionCfg
from open_clip.coca_model import MultimodalCfg
from open_clip.hf_configs import arch_dict
from transformers import AutoConfig

from trainer.errors import UnusableSpecError

_MODEL = ("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text", "output_dict")
_MODEL_FIELDS = frozenset((*_MODEL, "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"))
_TOWERS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg, "multimodal_cfg": MultimodalCfg}
_TOKENIZER_OPTIONS = {"clean": str, "strip_sep_token": bool, "reduction_mask": str, "language": str}
_TIMM_LOADERS = ("file", "state_dict", "hf_hub_filename")
_TIMM_ARGUMENTS = frozenset(
    (
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path"),
        *("cache_dir", "scriptable", "exportable", "no_jit", "features_only", "feature_cfg", "model_name", "pruned"),
        *("pretrained_filter_fn", "pretrained_strict", "pretrained_custom_load"),
    )
)
"""What timm.create_model takes that is no argument of a model's structure."""


class ForeignConfigError(UnusableSpecError):
    """A configuration from outside asks for what it may not; the text says which field and why."""


def checked_model_cfg(config: Mapping[str, Any], *, origin: str, own_text_tower: Path | None = None) -> dict[str, Any]:
    """A model_cfg of open_clip's from outside, with no word in it that loads weights or code by another name.

    Args:
        config: as it was read.
        origin: `local-dir:FOLDER` or `hf-hub:ORG/NAME`.
        own_text_tower: the folder beside it that holds a Hugging Face text tower's configuration.

    Raises:
        ForeignConfigError: a field is unknown, or has a value that a description of a structure has not.
    """
    towers = [config.get(name) for name in ("vision_cfg", "text_cfg")] if isinstance(config, Mapping) else [None]
    if not all(isinstance(tower, Mapping) for tower in towers):
        raise ForeignConfigError(f"{origin}: open_clip_config.json has no model_cfg with vision_cfg and text_cfg")
    _only(config, _MODEL_FIELDS, origin=origin, section="model_cfg")
    checked = copy.deepcopy(dict(config))
    for section, kind in _TOWERS.items():
        if section in checked:
            _only(checked[section], {field.name for field in fields(kind)}, origin=origin, section=section)
    _check_image_tower(checked["vision_cfg"], origin)
    for section in ("text_cfg", "multimodal_cfg"):
        if section in checked:
            _check_text_tower(checked[section], origin, own_text_tower)
    return checked


def check_text_encoder(place: str | Path) -> AutoConfig:
    """The configuration of a Hugging Face text encoder, of a kind that transformers itself has code for.

    Raises:
        ForeignConfigError: it is of another kind, or asks for attention out of a repository.
        OSError, ValueError: there is none, or it needs code of its own.
    """
    config = AutoConfig.from_pretrained(str(place), trust_remote_code=False)
    if config.model_type not in arch_dict:
        kinds = ", ".join(arch_dict)
        raise ForeignConfigError(f"{place} is a {config.model_type} model; open_clip's text towers are of {kinds}")
    attention = getattr(config, "_attn_implementation", None)
    if isinstance(attention, str) and "/" in attention:
        raise ForeignConfigError(f"{place} asks for attention code from {attention!r}; no code is loaded for a model")
    return config


def check_timm_folder(folder: Path) -> None:
    """See that a folder in timm's layout names no model, weights or arguments but its own.

    Raises:
        ForeignConfigError: it does.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ForeignConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ForeignConfigError(f"{path} is no JSON object")
    check_timm_structure(content.get("architecture"), content.get("model_args") or {}, origin=str(path))
    described = content.get("pretrained_cfg", content)
    for name in _TIMM_LOADERS if isinstance(described, Mapping) else ():
        if described.get(name):
            raise ForeignConfigError(f"{path}: pretrained_cfg.{name} {described[name]!r}: {_ELSEWHERE}")


def check_timm_structure(architecture: Any, model_args: Any, *, origin: str) -> None:
    """See that what timm would build is one of its own architectures, from plain arguments.

    Raises:
        ForeignConfigError: it is not.
    """
    if not _is_timm(architecture):
        raise ForeignConfigError(f"{origin}: {architecture!r} is no architecture of timm")
    if not isinstance(model_args, Mapping):
        raise ForeignConfigError(f"{origin}: model_args is {model_args!r}; expected an object")
    for name, value in model_args.items():
        if name in _TIMM_ARGUMENTS or isinstance(value, str) and ("/" in value or ":" in value):
            raise ForeignConfigError(f"{origin}: model_args.{name} {value!r}: {_ELSEWHERE}")


_ELSEWHERE = "a configuration may not name what else is to be loaded"


def _check_image_tower(vision: Mapping[str, Any], origin: str) -> None:
    name = vision.get("timm_model_name")
    if name is not None and not _is_timm(name):
        raise ForeignConfigError(f"{origin}: vision_cfg.timm_model_name {name!r} is no architecture of timm")


def _check_text_tower(text: dict[str, Any], origin: str, own: Path | None) -> None:
    options = text.get("tokenizer_kwargs") or {}
    _only(options, _TOKENIZER_OPTIONS, origin=origin, section="text_cfg.tokenizer_kwargs")
    for name, value in options.items():
        if not isinstance(value, _TOKENIZER_OPTIONS[name]):
            raise ForeignConfigError(f"{origin}: text_cfg.tokenizer_kwargs.{name} has the unusable value {value!r}")
    if own is not None:
        check_text_encoder(own)
        text["hf_model_name"] = str(own)
    elif (name := text.get("hf_model_name")) and name not in _published("hf_model_name"):
        raise ForeignConfigError(f"{origin}: text_cfg.hf_model_name {name!r}: {_ELSEWHERE}")
    # In a folder the tokenizer's files lie beside the configuration, whatever the name says.
    name = text.get("hf_tokenizer_name")
    known = origin.startswith("local-dir:") or name in (None, "", origin.removeprefix("hf-hub:"))
    if not known and name not in _published("hf_tokenizer_name"):
        raise ForeignConfigError(f"{origin}: text_cfg.hf_tokenizer_name {name!r}: {_ELSEWHERE}")


@cache
def _published(field: str) -> frozenset[str]:
    """The values that open_clip's own text towers have in a field."""
    configs = (open_clip.get_model_config(name) or {} for name in open_clip.list_models())
    return frozenset(str(config["text_cfg"][field]) for config in configs if config.get("text_cfg", {}).get(field))


def _is_timm(name: Any) -> bool:
    return isinstance(name, str) and ":" not in name and "/" not in name and timm.is_model(name)


def _only(found: Any, allowed: Iterable[str], *, origin: str, section: str) -> None:
    if not isinstance(found, Mapping):
        raise ForeignConfigError(f"{origin}: {section} is {found!r}; expected an object")
    if unknown := sorted(set(found) - set(allowed)):
        names = ", ".join(sorted(allowed))
        raise ForeignConfigError(f"{origin}: {section} may not set {unknown[0]!r}; allowed: {names}")
