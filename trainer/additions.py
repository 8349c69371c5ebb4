"""Projection heads and learned prompts on image-text models: made from a spec, stored beside an export, and restored.

open_clip knows neither, so an export keeps them apart: `attune_extras.safetensors` holds their weights under the names
that they have in the model (`image_head.0.weight`, `text_prompt.vectors`), and `extras` in `attune.json` their shapes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trainer.errors import UnusableSpecError
from trainer.heads import ProjectionHead
from trainer.learned_prompts import LearnedContext, add_prompt, refuse_other_towers
from trainer.model_sources import ModelError, read_export
from trainer.model_types import ClipModel
from trainer.spec import ModelSpec
from trainer.spec import ProjectionHead as ProjectionHeadSpec
from trainer.tower_swap import cut_to
from trainer.towers import ADDITIONS, extend, text_tower

FILE = "attune_extras.safetensors"
_HEADS = {"image_head": "model.image.head", "text_head": "model.text.head"}


def added(clip: ClipModel, model: ModelSpec, *, unshifted_pooling: bool, structure: bool) -> ClipModel:
    """`clip` with the projection heads and the learned prompt that `model` asks for, those it already has kept.

    Raises:
        UnusableSpecError: it has others already, they do not fit the model, or the towers' output sizes differ.
    """
    wanted = {"image_head": model.image.head, "text_head": model.text.head}
    with torch.device("meta" if structure else "cpu"):
        for name, spec in wanted.items():
            if spec is not None:
                _add_head(clip, name, spec)
        if model.text.prompt is not None:
            clip = _with_prompt(clip, model, unshifted_pooling=unshifted_pooling)
    sizes = {name: _output_size(clip, name) for name in _HEADS}
    if sizes["image_head"] != sizes["text_head"]:
        raise UnusableSpecError(
            f"model.image.head gives {sizes['image_head']} dimensions and model.text.head {sizes['text_head']}; both "
            "towers must agree: set output_size of both heads"
        )
    return clip


def describe(module: torch.nn.Module) -> dict[str, Any]:
    """What `attune.json` says about the additions of `module`."""
    described: dict[str, Any] = {}
    for name in _HEADS:
        if (head := getattr(module, name, None)) is not None:
            described[name] = _shape(head)
    if (prompt := getattr(module, "text_prompt", None)) is not None:
        described["text_prompt"] = {"length": prompt.length, "unshifted_pooling": prompt.unshifted_pooling}
    return described


def restored(clip: ClipModel, folder: Path, *, weights: bool) -> ClipModel:
    """`clip`, read from `folder`, with the additions that were exported with it.

    Raises:
        ModelError: the folder describes additions that it does not hold.
    """
    extras = read_export(folder).get("extras") or {}
    if not extras:
        return clip
    module = extend(clip.module)
    with torch.device("cpu" if weights else "meta"):
        for name in _HEADS:
            if name in extras:
                shape = dict(extras[name])
                setattr(module, name, ProjectionHead(shape.pop("input_size"), **shape))
        if "text_prompt" in extras:
            clip = _attach_prompt(clip, init_std=0.0, **extras["text_prompt"])
    if weights:
        stored = load_file(folder / FILE)
        found, expected = set(stored), {n for n in module.state_dict() if n.partition(".")[0] in ADDITIONS}
        if found != expected:
            differing = ", ".join(sorted(found ^ expected))
            raise ModelError(f"{folder / FILE} does not hold what attune.json describes: {differing}")
        module.load_state_dict(stored, strict=False)
    return clip


def _add_head(clip: ClipModel, name: str, spec: ProjectionHeadSpec) -> None:
    module = extend(clip.module)
    head = ProjectionHead.of(spec, tower_size=int(clip.config["embed_dim"]))
    existing = getattr(module, name)
    if existing is None:
        setattr(module, name, head)
    elif _shape(existing) != _shape(head):
        raise UnusableSpecError(
            f"{_HEADS[name]}: model.name {clip.name!r} already has a head of {_shape(existing)}, not {_shape(head)}; "
            "leave it out to go on with that"
        )


def _with_prompt(clip: ClipModel, model: ModelSpec, *, unshifted_pooling: bool) -> ClipModel:
    assert model.text.prompt is not None
    refuse_other_towers(clip.module)
    length, existing = model.text.prompt.length, getattr(clip.module, "text_prompt", None)
    if existing is not None:
        if existing.length != length:
            raise UnusableSpecError(
                f"model.text.prompt.length {length}: model.name {clip.name!r} already has a learned prompt of "
                f"{existing.length} vectors; leave it out to go on with that"
            )
        return clip
    return _attach_prompt(clip, length=length, unshifted_pooling=unshifted_pooling, init_std=model.text.prompt.init_std)


def _attach_prompt(clip: ClipModel, *, length: int, unshifted_pooling: bool, init_std: float) -> ClipModel:
    context_length = int(clip.config["text_cfg"].get("context_length", 77))
    if length > context_length - 3:  # start, one token of text, end
        raise UnusableSpecError(
            f"model.text.prompt.length {length} leaves no room for text in a context of {context_length} tokens; use at"
            f" most {context_length - 3}"
        )
    module = extend(clip.module)
    width = int(text_tower(module).token_embedding.weight.shape[1])
    add_prompt(
        module, LearnedContext(length=length, width=width, init_std=init_std, unshifted_pooling=unshifted_pooling)
    )
    return replace(clip, tokenize=cut_to(clip.tokenize, context_length - length))


def _output_size(clip: ClipModel, name: str) -> int:
    head = getattr(clip.module, name, None)
    return int(clip.config["embed_dim"]) if head is None else head.output_size


def _shape(head: ProjectionHead) -> dict[str, int]:
    return {
        "input_size": int(head[0].in_features),
        "layers": (len(head) + 1) // 2,
        "hidden_size": int(head[0].out_features if len(head) > 1 else head[0].in_features),
        "output_size": head.output_size,
    }
