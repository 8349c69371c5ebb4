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
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
from torch import Tensor, nn

from dali_pipelines.transforms import Preprocess
from trainer.catalogue import weights_dir
from trainer.errors import UnusableSpecError
from trainer.heads import ImageClassifier
from trainer.spec import ModelSpec

ARCHITECTURES = Path(__file__).with_name("architectures")
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth")


class ModelError(UnusableSpecError):
    """A model cannot be had or built; the text says why."""


@dataclass(frozen=True)
class ClipModel:
    """An image-text model of open_clip with what belongs to it.

    The module's `logit_scale` has shape (1,): DeepSpeed cannot flatten a 0-dimensional parameter in bf16.
    """

    module: nn.Module
    config: dict[str, Any]
    """open_clip's model_cfg."""
    preprocess: Preprocess
    tokenize: Callable[[Sequence[str]], Tensor]
    """Texts -> (N, context_length) int64, cut to the context length."""
    name: str


@dataclass(frozen=True)
class ClassifierModel:
    """An image classifier with what belongs to it."""

    module: ImageClassifier
    config: dict[str, Any]
    """open_clip's model_cfg, or timm's architecture and model_args."""
    preprocess: Preprocess
    class_names: tuple[str, ...]
    name: str
    kind: Literal["open_clip", "timm"]


def load_clip(model: ModelSpec, *, exif: Literal["ignore", "apply"] = "ignore") -> ClipModel:
    """Build an image-text model and load its weights, position embeddings interpolated to `model.image_size`.

    Raises:
        ModelError: the name is unknown, or its weights are not to be had.
    """
    open_clip.add_model_config(ARCHITECTURES)
    source = _locate(model.name)
    quick_gelu = _wants_quick_gelu(source)
    try:
        module = open_clip.create_model(
            source.name,
            pretrained=source.pretrained,
            force_quick_gelu=quick_gelu,
            require_pretrained=source.needs_weights,
            nonscalar_logit_scale=True,
        )
        config = copy.deepcopy(open_clip.get_model_config(source.name))
        if model.image_size is not None:
            module = _at_image_size(module, image_size=model.image_size, source=source, quick_gelu=quick_gelu)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name {model.name!r}: {_first_line(error)}{_offline_hint(source)}") from error
    if model.image_size is not None:
        config["vision_cfg"]["image_size"] = model.image_size
    if quick_gelu:
        config["quick_gelu"] = True
    return ClipModel(
        module=module,
        config=config,
        preprocess=_open_clip_preprocess(open_clip.get_model_preprocess_cfg(module), exif),
        tokenize=open_clip.get_tokenizer(source.name, context_length=_context_length(config)),
        name=model.name,
    )


def clip_classifier(clip: ClipModel, *, class_names: Sequence[str]) -> ClassifierModel:
    """An untrained linear head on a copy of `clip`'s image tower; `trainer.heads` initialises it."""
    trunk = copy.deepcopy(clip.module.visual)
    projection = image_projection(trunk)
    if projection is not None:
        trunk.proj = None
    num_features = projection.shape[0] if projection is not None else clip.config["embed_dim"]
    module = ImageClassifier(trunk, num_features=num_features, num_classes=len(class_names))
    return ClassifierModel(module, clip.config, clip.preprocess, tuple(class_names), clip.name, "open_clip")


def image_projection(visual: nn.Module) -> Tensor | None:
    """The (F, D) matrix at the end of an open_clip ViT tower; None for towers that project inside."""
    projection = getattr(visual, "proj", None)
    return projection if isinstance(projection, Tensor) else None


def load_timm_classifier(
    model: ModelSpec, *, class_names: Sequence[str], exif: Literal["ignore", "apply"] = "ignore"
) -> ClassifierModel:
    """A timm model with a fresh linear head for `class_names`.

    Raises:
        ModelError: the name is unknown, or its weights are not to be had.
    """
    name, pretrained, overlay = _locate_timm(model.name)
    size = {} if model.image_size is None else {"img_size": model.image_size}
    try:
        trunk = timm.create_model(name, pretrained=pretrained, num_classes=0, pretrained_cfg_overlay=overlay, **size)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise ModelError(f"model.name {model.name!r}: {_first_line(error)}") from error
    num_features = getattr(trunk, "head_hidden_size", trunk.num_features)  # some have layers between pooling and head
    module = ImageClassifier(trunk, num_features=num_features, num_classes=len(class_names))
    config = _timm_config(name, size)
    preprocess = _timm_preprocess(trunk, model.image_size, exif)
    return ClassifierModel(module, config, preprocess, tuple(class_names), model.name, "timm")


def _at_image_size(module: nn.Module, *, image_size: int, source: _Source, quick_gelu: bool) -> nn.Module:
    """The same weights for another input size. open_clip can do it while loading, but not from half precision."""
    if hasattr(module.visual, "set_input_size"):
        module.visual.set_input_size(image_size)
        open_clip.model.set_model_preprocess_cfg(
            module, {**open_clip.get_model_preprocess_cfg(module), "size": (image_size, image_size)}
        )
        return module
    resized = open_clip.create_model(
        source.name,
        load_weights=False,
        force_image_size=image_size,
        force_preprocess_cfg={**open_clip.get_model_preprocess_cfg(module), "size": (image_size, image_size)},
        force_quick_gelu=quick_gelu,
        nonscalar_logit_scale=True,
    )
    state = module.state_dict()
    open_clip.model.resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    return resized


@dataclass(frozen=True)
class _Source:
    """Where open_clip finds a model."""

    name: str
    pretrained: str | None
    tag: str | None
    needs_weights: bool


def _locate(name: str) -> _Source:
    if name.startswith("local-dir:"):
        return _Source(name, None, None, needs_weights=True)
    if name.startswith("hf-hub:"):
        folder = _in_weights_dir(name.removeprefix("hf-hub:"))
        return _Source(f"local-dir:{folder}" if folder else name, None, None, needs_weights=True)
    if name.startswith("timm/"):
        raise ModelError(f"model.name {name!r} is a timm image model; it has no text tower")
    architecture, _, tag = name.partition("/")
    if not tag:
        return _Source(architecture, None, None, needs_weights=False)
    folder = _in_weights_dir(f"{architecture}/{tag}")
    return _Source(architecture, str(_weight_file(folder)) if folder else tag, tag, needs_weights=True)


def _offline_hint(source: _Source) -> str:
    if source.tag is None:
        return ""
    place = weights_dir() or "ATTUNE_WEIGHTS_DIR"
    return f" Without a network, put the weights into {place}/{source.name}/{source.tag}/"


def _in_weights_dir(relative: str) -> Path | None:
    folder = weights_dir()
    return folder / relative if folder and (folder / relative).is_dir() else None


def _weight_file(folder: Path) -> Path:
    for pattern in _WEIGHT_FILES:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise ModelError(f"{folder} holds no weights: expected one of {', '.join(_WEIGHT_FILES)}")


def _wants_quick_gelu(source: _Source) -> bool:
    """OpenAI's weights and some others were trained with QuickGELU, which the plain architecture does not have."""
    if source.tag is None:
        return False
    return bool((open_clip.get_pretrained_cfg(source.name, source.tag) or {}).get("quick_gelu", False))


def _context_length(config: dict[str, Any]) -> int:
    return int(config["text_cfg"].get("context_length", 77))


def _open_clip_preprocess(config: dict[str, Any], exif: Literal["ignore", "apply"]) -> Preprocess:
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


def _timm_config(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm needs to build the model again; a local folder says from what it was built."""
    if not name.startswith("local-dir:"):
        return {"architecture": name.partition(".")[0], "model_args": arguments}
    stored = json.loads((Path(name.removeprefix("local-dir:")) / "config.json").read_text(encoding="utf-8"))
    return {"architecture": stored["architecture"], "model_args": stored.get("model_args", {}) | arguments}


def _timm_preprocess(trunk: nn.Module, image_size: int | None, exif: Literal["ignore", "apply"]) -> Preprocess:
    config = timm.data.resolve_model_data_config(trunk)
    return Preprocess(
        image_size=image_size or int(config["input_size"][-1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize_mode="squash" if config["crop_mode"] == "squash" else "shortest",
        exif=exif,
    )


def _locate_timm(name: str) -> tuple[str, bool, dict[str, Any] | None]:
    """timm's name of a model, whether weights are loaded, and where from if not from the hub."""
    if name.startswith("local-dir:"):
        return name, True, None
    bare = name.removeprefix("timm/")
    if folder := _in_weights_dir(f"timm/{bare}"):
        return bare, True, {"file": str(_weight_file(folder))}
    return bare, "." in bare, None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def read_export(folder: Path) -> dict[str, Any]:
    """What an export's attune.json says: task, class names, templates, metrics; empty for folders of other origin."""
    path = folder / "attune.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
