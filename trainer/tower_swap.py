"""Other towers in an image-text model: an image model of timm, an encoder of Hugging Face, a shorter text context."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import timm
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer
from torch import nn

from trainer import catalogue
from trainer.errors import UnusableSpecError
from trainer.model_sources import ModelError, first_line, in_weights_dir, locate_timm, timm_name
from trainer.model_types import ClipModel, NoTokenizer
from trainer.outside_configs import check_text_encoder
from trainer.spec import ModelSpec
from trainer.timm_models import timm_preprocess
from trainer.towers import construct, text_tower

_POOLERS = {"cls": "cls_pooler", "mean": "mean_pooler", "cls_before_pooler": "cls_last_hidden_state_pooler"}


def with_towers(clip: ClipModel, model: ModelSpec, *, weights: bool) -> ClipModel:
    """`clip` with the towers that `model.image.tower` and `model.text.tower` name, and the context length asked for.

    Raises:
        ModelError: a tower's weights are not to be had.
        UnusableSpecError: a tower does not fit.
    """
    if model.image.tower is not None:
        clip = _with_timm_tower(clip, model, weights=weights)
    if model.text.tower is not None:
        return _with_text_encoder(clip, model, weights=weights)
    if model.text.context_length is not None:
        return _with_shorter_context(clip, model.text.context_length)
    return clip


def _with_timm_tower(clip: ClipModel, model: ModelSpec, *, weights: bool) -> ClipModel:
    """timm's model and a linear projection into the shared space, which starts at random."""
    assert model.image.tower is not None
    named, pretrained, overlay = locate_timm(model.image.tower)
    known = timm_name(named)
    size = model.image_size or int(timm.get_pretrained_cfg(known).input_size[-1])
    vision: dict[str, Any] = {"timm_model_name": known, "timm_pool": "", "timm_proj": "linear", "image_size": size}
    try:
        with torch.device("cpu" if weights else "meta"):
            tower = TimmModel(known, clip.config["embed_dim"], image_size=size, pool="", proj="linear")
        if weights and pretrained:
            source = timm.create_model(named, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
            tower.trunk.load_state_dict(source.state_dict())
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise ModelError(f"model.image.tower {model.image.tower!r}: {first_line(error)}") from error
    if model.image_size is not None:
        tower.set_input_size(size)
    clip.module.visual = tower
    preprocess = timm_preprocess(tower.trunk, model.image_size, clip.preprocess.exif)
    return replace(clip, config={**clip.config, "vision_cfg": vision}, preprocess=preprocess)


def _with_text_encoder(clip: ClipModel, model: ModelSpec, *, weights: bool) -> ClipModel:
    """Hugging Face's encoder and a linear projection into the shared space, which starts at random."""
    assert model.text.tower is not None
    place = _text_encoder_place(model.text.tower)
    try:
        context_length = _context_length(place, model, default=int(clip.config["text_cfg"].get("context_length", 77)))
        config = {
            **clip.config,
            "custom_text": True,
            "text_cfg": {
                "hf_model_name": place,
                "hf_tokenizer_name": place,
                "hf_proj_type": "linear",
                "hf_pooler_type": _POOLERS[model.text.pooling],
                "context_length": context_length,
            },
        }
        module = construct(config)
        with torch.device("cpu" if weights else "meta"):
            module.text = HFTextEncoder(
                place,
                output_dim=config["embed_dim"],
                proj_type="linear",
                pooler_type=_POOLERS[model.text.pooling],
                pretrained=weights,
            )
        tokenize: Any = NoTokenizer(context_length)
        if weights:
            tokenize = HFTokenizer(place, context_length=context_length, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, UnusableSpecError):
            raise
        raise ModelError(f"model.text.tower {model.text.tower!r}: {first_line(error)}") from error
    module.visual = clip.module.visual
    module.logit_scale, module.logit_bias = clip.module.logit_scale, clip.module.logit_bias
    return replace(clip, module=module, config=config, tokenize=tokenize)


def _text_encoder_place(tower: str) -> str:
    if tower.startswith("local-dir:"):
        return tower.removeprefix("local-dir:")
    repository = tower.removeprefix("hf-hub:")
    if not catalogue.is_repository(repository):
        raise UnusableSpecError(f"model.text.tower {tower!r} is no text encoder; write hf-hub:ORG/NAME")
    return str(in_weights_dir(repository) or repository)


def _context_length(place: str, model: ModelSpec, *, default: int) -> int:
    """Tokens that the encoder takes, of those asked for."""
    config = check_text_encoder(place)
    most = int(getattr(config, "max_position_embeddings", None) or default)
    if "roberta" in config.model_type:  # whose positions begin behind the padding's
        most -= config.pad_token_id + 1
    wanted = model.text.context_length
    if wanted is not None and wanted > most:
        raise UnusableSpecError(f"model.text.context_length {wanted} is more than the tower's {most} tokens")
    return wanted or min(default, most)


def _with_shorter_context(clip: ClipModel, length: int) -> ClipModel:
    """Cut the position embeddings and the causal mask of open_clip's text tower."""
    tower, own = text_tower(clip.module), int(clip.config["text_cfg"].get("context_length", 77))
    is_encoder = "hf_model_name" in clip.config["text_cfg"]
    if length > own or getattr(tower, "cls_emb", None) is not None:
        raise UnusableSpecError(
            f"model.text.context_length {length}: the text tower has {own} position embeddings, which can only be"
            " shortened, and not where a class token ends the text"
        )
    if not is_encoder:
        tower.positional_embedding = nn.Parameter(tower.positional_embedding.detach()[:length].clone())
        if tower.attn_mask is not None:
            tower.attn_mask = tower.attn_mask[:length, :length]
        tower.context_length = clip.module.context_length = length
    text = {**clip.config["text_cfg"], "context_length": length}
    return replace(clip, config={**clip.config, "text_cfg": text}, tokenize=cut_to(clip.tokenize, length))


def cut_to(tokenize: Any, context_length: int) -> Any:
    """A tokenizer like `tokenize` that makes `context_length` tokens a text."""
    shorter = copy.copy(tokenize)
    shorter.context_length = context_length
    return shorter
