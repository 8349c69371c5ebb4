"""Exports: folders that plain open_clip or timm loads, in safetensors, with a model card.

An image-text model in open_clip's layout, for `open_clip.create_model_and_transforms("local-dir:FOLDER")`:

    open_clip_config.json  open_clip_model.safetensors  README.md  attune.json  (tokenizer files, where it has its own)
    attune_extras.safetensors   projection heads and a learned prompt, which Attune puts back and open_clip leaves out
    text_tower/                 the configuration of a Hugging Face text tower

A classifier in timm's layout, for `timm.create_model("local-dir:FOLDER", pretrained=True)`:

    config.json  model.safetensors  README.md  attune.json

A classifier that timm cannot represent, in Attune's own layout: see `trainer.classifier_layout`.

`attune.json` says what only Attune knows: task, class names, templates, metrics, data hash and the whole spec. Adapters
are merged into the weights that they adapt.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dali_pipelines.transforms import Preprocess
from trainer import adapters, additions, classifier_layout, timm_layout
from trainer.errors import UnusableSpecError
from trainer.model_card import Layout, ModelCard
from trainer.models import ClassifierModel, ClipModel
from trainer.towers import ADDITIONS, construct
from trainer.whole_folder import replacing

FORMAT_VERSION = 1
_TEMPERATURES = ("logit_scale", "logit_bias")
_Shapes = Mapping[str, tuple[int, ...]]


class ExportError(UnusableSpecError):
    """A model cannot be written in the layout asked for; the text says why."""


def export_clip(
    model: ClipModel,
    folder: Path,
    *,
    card: ModelCard,
    state_dict: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an image-text model as open_clip reads it, replacing `folder` if it exists.

    Args:
        model: the model.
        folder: where to write.
        card: what the model card says.
        state_dict: whole weights to write in place of the module's own.
        dtype: of the stored tensors; the logit scale and bias stay float32, where rounding would change the model.

    Raises:
        ExportError: open_clip could not load the result, or a weight does not fit `dtype`.
    """
    state = _plain_state(model.module, state_dict)
    extras = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in ADDITIONS}
    weights = _clip_tensors({name: t for name, t in state.items() if name not in extras}, dtype=dtype)
    if problem := _clip_layout_problem(model.config, {name: tuple(t.shape) for name, t in weights.items()}):
        raise ExportError(problem)
    with replacing(folder) as partial:
        save_file(weights, partial / "open_clip_model.safetensors", metadata={"format": "pt"})
        if extras:
            save_file(_tensors(extras, dtype=dtype), partial / additions.FILE, metadata={"format": "pt"})
        _write_json(
            partial / "open_clip_config.json",
            {
                "model_cfg": _config_with_text_tower(model, partial, final=folder),
                "preprocess_cfg": _open_clip_preprocess(model.preprocess),
            },
        )
        if hasattr(model.tokenize, "save_pretrained"):
            model.tokenize.save_pretrained(str(partial))
        more = {"extras": additions.describe(model.module)} if extras else {}
        _write_description(partial, card, layout="open_clip", model=model, more=more)


def export_classifier(
    model: ClassifierModel,
    folder: Path,
    *,
    card: ModelCard,
    state_dict: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a classifier as timm reads it, or in Attune's own layout where timm has no such model; replaces `folder`.

    Args: as `export_clip`.

    Raises:
        ExportError: a weight does not fit `dtype`.
    """
    state = _plain_state(model.module, state_dict)
    layout = _timm_layout(model, state)
    files = {"model.safetensors": layout.weights} if layout else classifier_layout.split(state)
    tensors = {name: _tensors(weights, dtype=dtype) for name, weights in files.items()}
    with replacing(folder) as partial:
        for name, weights in tensors.items():
            save_file(weights, partial / name, metadata={"format": "pt"})
        _write_json(partial / "config.json", layout.config if layout else classifier_layout.describe(model))
        kind: Layout = "timm" if layout else "attune"
        _write_description(partial, card, layout=kind, model=model, more={"features": model.features})


def clip_export_problem(model: ClipModel) -> str | None:
    """Why open_clip could not load an export of this model, or None. Known before training."""
    found = {name: s for name, s in _shapes(model.module).items() if name.partition(".")[0] not in ADDITIONS}
    return _clip_layout_problem(model.config, found)


def _plain_state(module: nn.Module, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Whole weights without adapters: the module's own, or `state_dict` in its shape."""
    if not adapters.has_adapters(module):
        return dict(module.state_dict() if state_dict is None else state_dict)
    if state_dict is not None:
        module = copy.deepcopy(module)
        module.load_state_dict(state_dict)
    return dict(adapters.merged(module).state_dict())


def _timm_layout(model: ClassifierModel, state: Mapping[str, Tensor]) -> timm_layout.TimmLayout | None:
    """The classifier in timm's terms, or None where timm has no model that computes the same."""
    if model.module.unit_norm:
        return None
    try:
        return timm_layout.to_timm(model, state)
    except timm_layout.NoCounterpartError:
        return None


def _config_with_text_tower(model: ClipModel, partial: Path, *, final: Path) -> dict[str, Any]:
    """The model_cfg to write. A Hugging Face text tower's configuration comes along, as its folder may not last."""
    text = model.config["text_cfg"]
    name = text.get("hf_model_name")
    if name is None:
        return model.config
    model.module.text.config.save_pretrained(str(partial / "text_tower"))
    place = str(final.resolve() / "text_tower") if Path(name).is_dir() else name
    return {**model.config, "text_cfg": {**text, "hf_model_name": place}}


def _clip_tensors(state_dict: Mapping[str, Tensor], *, dtype: torch.dtype) -> dict[str, Tensor]:
    weights = _tensors({k: v for k, v in state_dict.items() if k not in _TEMPERATURES}, dtype=dtype)
    for name in _TEMPERATURES:
        if name in state_dict:
            weights |= _tensors({name: state_dict[name].reshape(())}, dtype=torch.float32)
    return weights


def _tensors(state_dict: Mapping[str, Tensor], *, dtype: torch.dtype) -> dict[str, Tensor]:
    """CPU copies that share no memory, which safetensors requires; integers keep their type.

    Raises:
        ExportError: a finite weight overflows in `dtype`.
    """
    converted = {}
    for name, tensor in state_dict.items():
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        copy = tensor.detach().to(device="cpu", dtype=wanted, copy=True).contiguous()
        if wanted != tensor.dtype and bool((copy.isinf() & ~tensor.detach().cpu().isinf()).any()):
            raise ExportError(f"{name} holds values beyond the range of {dtype}; export as bfloat16 or float32")
        converted[name] = copy
    return converted


def _clip_layout_problem(config: Mapping[str, Any], found: _Shapes) -> str | None:
    """Why open_clip would not load weights of the shapes `found` into a model made from `config` alone, or None."""
    expected = _expected_shapes(config)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if not wrong:
        return None
    shown = "; ".join(f"{n}: expected {expected.get(n)}, got {found.get(n)}" for n in wrong[:3])
    return (
        f"open_clip cannot rebuild this model from its configuration: {len(wrong)} tensors differ ({shown})."
        " A timm tower of a fixed input size keeps that size: leave model.image_size unset"
    )


def _expected_shapes(config: Mapping[str, Any]) -> _Shapes:
    """Shape by name of the state dict that open_clip wants for `config`; nothing is allocated."""
    return _shapes(construct(config))


def _shapes(module: nn.Module) -> _Shapes:
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return {name: () if name in _TEMPERATURES else shape for name, shape in shapes.items()}


def _open_clip_preprocess(preprocess: Preprocess) -> dict[str, Any]:
    return {
        "size": [preprocess.image_size, preprocess.image_size],
        "mode": "RGB",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize_mode,
        "fill_color": 0,
    }


def _write_description(
    folder: Path,
    card: ModelCard,
    *,
    layout: Layout,
    model: ClipModel | ClassifierModel,
    more: Mapping[str, Any],
) -> None:
    description = {
        "format_version": FORMAT_VERSION,
        "task": "clip" if layout == "open_clip" else "classifier",
        "base_model": model.name,
        "class_names": list(card.class_names),
        "templates": list(card.templates),
        "metrics": dict(card.metrics),
        "preprocess": asdict(model.preprocess),
        "data_hash": card.data_hash,
        "num_samples": card.num_samples,
        "wise_ft": None if card.wise_ft is None else dict(card.wise_ft),
        "spec": None if card.spec is None else card.spec.model_dump(mode="json"),
        **more,
    }
    _write_json(folder / "attune.json", description)
    text = card.to_markdown(layout=layout, model_name=model.name, preprocess=model.preprocess)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
