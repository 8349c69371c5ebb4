"""open_clip's image-text models by name, with their weights or as a structure without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.factory import load_checkpoint
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from dali_pipelines.transforms import Preprocess
from trainer.model_sources import ModelError, Source, first_line, locate
from trainer.model_types import ClipModel, Exif, NoTokenizer
from trainer.spec import ModelSpec
from trainer.towers import construct


def load_base_clip(model: ModelSpec, *, exif: Exif = "ignore", weights: bool = True) -> ClipModel:
    """An image-text model as open_clip knows it, position embeddings interpolated to `model.image_size`.

    Without `weights` its module is on the meta device, it has no tokenizer, and nothing but perhaps a configuration
    file is downloaded.

    Raises:
        ModelError: the name is unknown, or its weights are not to be had.
    """
    source = locate(model.name)
    try:
        make = _with_weights if weights else _without_weights
        module, config, preprocessing = make(source, image_size=model.image_size)
        context_length = int(config["text_cfg"].get("context_length", 77))
        tokenize: Any = NoTokenizer(context_length)
        if weights:
            tokenize = tokenizer_of(source, config["text_cfg"], context_length=context_length)
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"model.name {model.name!r}: {first_line(error)}{source.offline_hint}") from error
    if model.image_size is not None:
        config["vision_cfg"]["image_size"] = model.image_size
    if source.quick_gelu:
        config["quick_gelu"] = True
    return ClipModel(
        module=module,
        config=config,
        preprocess=_open_clip_preprocess(preprocessing, exif),
        tokenize=tokenize,
        name=model.name,
    )


def tokenizer_of(source: Source, text_cfg: Mapping[str, Any], *, context_length: int) -> Any:
    """The tokenizer that belongs to a model, of a text_cfg out of `Source.describe`. No repository's code is run."""
    options = text_cfg.get("tokenizer_kwargs") or {}
    if name := text_cfg.get("hf_tokenizer_name"):
        return HFTokenizer(
            str(source.folder or name),
            context_length=context_length,
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            **options,
            trust_remote_code=False,
        )
    if source.is_described_outside:
        return open_clip.SimpleTokenizer(context_length=context_length, **options)
    return open_clip.get_tokenizer(source.name, context_length=context_length)


def _with_weights(source: Source, *, image_size: int | None) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    if (folder := source.own_text_tower) is not None:
        return _with_stored_text_tower(source, folder, image_size=image_size)
    config = copy.deepcopy(source.describe()[0])
    module = open_clip.create_model(
        source.name,
        pretrained=source.pretrained,
        force_quick_gelu=source.quick_gelu,
        require_pretrained=source.needs_weights,
        pretrained_text=not source.is_described_outside,
        **_as_judged(source, config),
    )
    if image_size is not None:
        module = _at_image_size(module, image_size=image_size, source=source)
    return module, config, open_clip.get_model_preprocess_cfg(module)


def _with_stored_text_tower(
    source: Source, folder: Path, *, image_size: int | None
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """An export that brings its Hugging Face text tower's configuration along: where that came from may be gone."""
    config, preprocessing = source.describe()
    module = construct(config, device="cpu")
    load_checkpoint(module, str(folder.parent / "open_clip_model.safetensors"))
    merged = merge_preprocess_dict(asdict(PreprocessCfg()), preprocessing)
    if image_size is not None:
        raise ModelError(f"model.image_size {image_size}: a model with a Hugging Face text tower keeps its input size")
    return module, config, merged


def _without_weights(source: Source, *, image_size: int | None) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    config, preprocessing = source.describe()
    sized = copy.deepcopy(config)
    if image_size is not None:
        sized["vision_cfg"]["image_size"] = image_size
    if source.quick_gelu:
        sized["quick_gelu"] = True
    module = construct(sized)
    if image_size is not None and hasattr(module.visual, "set_input_size"):
        module.visual.set_input_size(image_size)
    merged = merge_preprocess_dict(asdict(PreprocessCfg()), preprocessing)
    return module, config, {**merged, "size": getattr(module.visual, "image_size", merged["size"])}


def _as_judged(source: Source, config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of open_clip's factory that go before what it reads a second time from a folder or repository."""
    if not source.is_described_outside:
        return {"nonscalar_logit_scale": True}
    judged = {name: copy.deepcopy(value) for name, value in config.items() if name != "custom_text"}
    judged["vision_cfg"]["timm_model_pretrained"] = judged["text_cfg"]["hf_model_pretrained"] = False
    return judged | {"nonscalar_logit_scale": True}


def _at_image_size(module: nn.Module, *, image_size: int, source: Source) -> nn.Module:
    """The same weights for another input size. open_clip can do it while loading, but not from half precision."""
    if hasattr(module.visual, "set_input_size"):
        module.visual.set_input_size(image_size)
        open_clip.model.set_model_preprocess_cfg(
            module, {**open_clip.get_model_preprocess_cfg(module), "size": (image_size, image_size)}
        )
        return module
    config = copy.deepcopy(source.describe()[0])
    config["vision_cfg"]["image_size"] = image_size
    resized = open_clip.create_model(
        source.name,
        load_weights=False,
        pretrained_text=False,
        force_image_size=image_size,
        force_preprocess_cfg={**open_clip.get_model_preprocess_cfg(module), "size": (image_size, image_size)},
        force_quick_gelu=source.quick_gelu,
        **_as_judged(source, config),
    )
    state = module.state_dict()
    open_clip.model.resize_pos_embed(state, resized)
    if isinstance(resized.visual, ModifiedResNet):
        name = "visual.attnpool.positional_embedding"
        state[name] = _resized_positions(state[name], resized.visual.attnpool.positional_embedding.shape[0])
    resized.load_state_dict(state)
    return resized


def _resized_positions(embedding: Tensor, count: int) -> Tensor:
    """(1 + n * n, D) -> (`count`, D), interpolated as open_clip does it in ViTs, but not in its ResNets' pooling."""
    old, new = math.isqrt(len(embedding) - 1), math.isqrt(count - 1)
    grid = embedding[1:].T.reshape(1, -1, old, old).float()
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True)
    return torch.cat([embedding[:1], grid.flatten(2)[0].T.to(embedding.dtype)])


def _open_clip_preprocess(config: dict[str, Any], exif: Exif) -> Preprocess:
    size = config["size"]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise ModelError(f"the model takes {height} x {width} images; only square input is supported")
    resize_mode = config.get("resize_mode", "shortest")
    if resize_mode not in ("shortest", "squash"):
        raise ModelError(f"the model's resize mode {resize_mode!r} is not supported; shortest and squash are")
    return Preprocess(
        image_size=int(height),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config.get("interpolation", "bicubic"),
        resize_mode=resize_mode,
        exif=exif,
    )
