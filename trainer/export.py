"""Exports: folders that plain open_clip or timm loads, in safetensors, with a model card.

An image-text model in open_clip's layout, for `open_clip.create_model_and_transforms("local-dir:FOLDER")`:

    open_clip_config.json  open_clip_model.safetensors  README.md  attune.json  (tokenizer files, where it has its own)

A classifier in timm's layout, for `timm.create_model("local-dir:FOLDER", pretrained=True)`:

    config.json  model.safetensors  README.md  attune.json

`attune.json` says what only Attune knows: task, class names, templates, metrics, data hash and the whole spec.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from dali_pipelines.transforms import Preprocess
from trainer import timm_layout
from trainer.errors import UnusableSpecError
from trainer.model_card import ModelCard
from trainer.models import ClassifierModel, ClipModel

classifier_export_problem = timm_layout.classifier_export_problem

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
    weights = _clip_tensors(model.module.state_dict() if state_dict is None else state_dict, dtype=dtype)
    if problem := _clip_layout_problem(model.config, {name: tuple(t.shape) for name, t in weights.items()}):
        raise ExportError(problem)
    with _replacing(folder) as partial:
        save_file(weights, partial / "open_clip_model.safetensors", metadata={"format": "pt"})
        _write_json(
            partial / "open_clip_config.json",
            {"model_cfg": model.config, "preprocess_cfg": _open_clip_preprocess(model.preprocess)},
        )
        if hasattr(model.tokenize, "save_pretrained"):
            model.tokenize.save_pretrained(str(partial))
        _write_description(partial, card, task="clip", model_name=model.name, preprocess=model.preprocess)


def export_classifier(
    model: ClassifierModel,
    folder: Path,
    *,
    card: ModelCard,
    state_dict: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a classifier as timm reads it, replacing `folder` if it exists.

    Args: as `export_clip`.

    Raises:
        ExportError: timm has no counterpart of the image tower, or a weight does not fit `dtype`.
    """
    state = model.module.state_dict() if state_dict is None else state_dict
    try:
        layout = timm_layout.to_timm(model, state)
    except timm_layout.NoCounterpartError as error:
        raise ExportError(str(error)) from None
    weights = _tensors(layout.weights, dtype=dtype)
    with _replacing(folder) as partial:
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        _write_json(partial / "config.json", layout.config)
        _write_description(partial, card, task="classifier", model_name=model.name, preprocess=model.preprocess)


def clip_export_problem(model: ClipModel) -> str | None:
    """Why open_clip could not load an export of this model, or None. Known before training."""
    return _clip_layout_problem(model.config, _shapes(model.module))


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
    arguments = json.loads(json.dumps(dict(config)))
    custom = arguments.pop("custom_text", False) or "hf_model_name" in arguments["text_cfg"]
    arguments["vision_cfg"]["timm_model_pretrained"] = False
    arguments["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP
    with torch.device("meta"):
        module = kind(**arguments)
    return _shapes(module)


def _shapes(module: torch.nn.Module) -> _Shapes:
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
    folder: Path, card: ModelCard, *, task: Literal["clip", "classifier"], model_name: str, preprocess: Preprocess
) -> None:
    description = {
        "format_version": FORMAT_VERSION,
        "task": task,
        "base_model": model_name,
        "class_names": list(card.class_names),
        "templates": list(card.templates),
        "metrics": dict(card.metrics),
        "preprocess": asdict(preprocess),
        "data_hash": card.data_hash,
        "num_samples": card.num_samples,
        "spec": None if card.spec is None else card.spec.model_dump(mode="json"),
    }
    _write_json(folder / "attune.json", description)
    text = card.to_markdown(task=task, model_name=model_name, preprocess=preprocess)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes its name once all is on the disk.

    A file system cannot swap two folders in one portable step: between the two renames there is no `folder`, and if
    the second one fails the old one returns.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _sync(partial)
        _take_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Remove what exports that were killed left beside `folder`; one killed between its renames gets its name back."""
    for old in folder.parent.glob(f".{folder.name}.*.old"):
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for partial in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(partial)


def _take_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
