"""Models that classify images by themselves: zero-shot, an export's classes, or the classes of a timm model.

`list_models` and `get_model` are called as mmpretrain's are.
"""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from trainer import catalogue
from trainer.errors import UnusableSpecError
from trainer.evaluation.features import image_features, inference
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.image_inference.features import Stage, check_stage, classifier_features, clip_features, timm_features
from trainer.image_inference.pixels import Pixels
from trainer.model_sources import ModelError, first_line, locate_timm
from trainer.models import ClassifierModel, ClipModel, load_clip, read_export
from trainer.prompts import expand_templates
from trainer.spec import DataSpec, ModelSpec
from trainer.stored_classifiers import read_classifier
from trainer.timm_models import timm_preprocess

Task = Literal["Image Classification", "Zero-Shot Classification", "null"]


class ImageModel(ABC):
    """A model in evaluation mode on its device."""

    def __init__(
        self, name: str, module: nn.Module, pixels: Pixels, *, class_names: tuple[str, ...] | None, device: torch.device
    ) -> None:
        self.name = name
        self.module = module.to(device).eval()
        self.pixels = pixels
        self.device = device
        self.class_names = class_names

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) on the device -> (B, num_classes) float32.

        Raises:
            UnusableSpecError: the model has no classes.
        """

    @abstractmethod
    def extract_feat(self, images: Tensor, stage: Stage = "neck") -> tuple[Tensor, ...]:
        """(B, 3, H, W) on the device -> features of a stage; shapes in `trainer.image_inference.features`."""


class ZeroShotModel(ImageModel):
    """An image-text model, whose classes are texts."""

    def __init__(
        self, clip: ClipModel, *, class_names: Sequence[str] | None, templates: Sequence[str], device: torch.device
    ) -> None:
        names = tuple(class_names) if class_names else None
        super().__init__(clip.name, clip.module, _pixels(clip, device), class_names=names, device=device)
        self._logit_scale = float(clip.module.logit_scale.detach().float().exp())
        self._weights_dc = None
        if names:
            self._weights_dc = zero_shot_weights(
                self.module, clip.tokenize, names, expand_templates(templates), device=device
            )

    def logits(self, images: Tensor) -> Tensor:
        if self._weights_dc is None:
            raise UnusableSpecError(f"{self.name} is an image-text model: name the classes to choose from")
        with inference(self.module):
            return self._logit_scale * image_features(self.module, images) @ self._weights_dc

    def extract_feat(self, images: Tensor, stage: Stage = "neck") -> tuple[Tensor, ...]:
        check_stage(stage)
        with inference(self.module):
            return clip_features(self.module, images, stage=stage)


class ExportedClassifier(ImageModel):
    """A classifier that Attune exported."""

    def __init__(self, classifier: ClassifierModel, *, device: torch.device) -> None:
        pixels = _pixels(classifier, device)
        super().__init__(classifier.name, classifier.module, pixels, class_names=classifier.class_names, device=device)

    def logits(self, images: Tensor) -> Tensor:
        with inference(self.module):
            return self.module(images).float()

    def extract_feat(self, images: Tensor, stage: Stage = "neck") -> tuple[Tensor, ...]:
        check_stage(stage)
        with inference(self.module):
            return classifier_features(self.module, images, stage=stage)


class TimmModel(ImageModel):
    """A timm model with its own head, if its weights have one."""

    def __init__(self, name: str, module: nn.Module, *, device: torch.device) -> None:
        pixels = Pixels(timm_preprocess(module, None, "ignore"), device=device)
        self._has_classes = _classifies(module.pretrained_cfg.get("num_classes", 0), name)
        names = _imagenet_names(module) if self._has_classes else None
        super().__init__(name, module, pixels, class_names=names, device=device)

    def logits(self, images: Tensor) -> Tensor:
        if not self._has_classes:
            raise UnusableSpecError(f"{self.name} has no classes; use an image-text model, or weights with `_ft_in1k`")
        with inference(self.module):
            return self.module(images).float()

    def extract_feat(self, images: Tensor, stage: Stage = "neck") -> tuple[Tensor, ...]:
        check_stage(stage)
        with inference(self.module):
            return timm_features(self.module, images, stage=stage)


def list_models(
    pattern: str | None = None, exclude_patterns: Sequence[str] | None = None, task: Task | None = None
) -> list[str]:
    """Names that `get_model` takes, sorted: mmpretrain's, OpenAI's, open_clip's with their tags, timm's with theirs.

    Args:
        pattern: shell-style, and also matched with anything behind it, as mmpretrain does: `vit-base`.
        exclude_patterns: the same, of names to leave out.
        task: `Image Classification` (the weights have classes), `Zero-Shot Classification` (image-text models), or
            `null` (image towers without classes).

    Raises:
        UnusableSpecError: there is no such task.
    """
    tasks = _tasks()
    if task is not None and task not in (known := sorted(set(tasks.values()))):
        raise UnusableSpecError(f"task is {task!r}; allowed: {', '.join(known)}")
    names = set(tasks) if pattern is None else set(fnmatch.filter(tasks, f"{pattern}*"))
    for excluded in exclude_patterns or ():
        names -= set(fnmatch.filter(names, f"{excluded}*"))
    return sorted(name for name in names if task is None or tasks[name] == task)


def get_model(
    name: str | Path,
    *,
    pretrained: bool = True,
    device: str | torch.device | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] = (),
    image_size: int | None = None,
) -> ImageModel:
    """A model by name, ready to be asked.

    Args:
        name: any name that `model.name` of a spec takes, or the folder of an export.
        pretrained: load weights; False: the architecture with fresh ones.
        device: None: a GPU if there is one.
        class_names: what an image-text model chooses from; None: the classes that an export was trained on.
        templates: prompt templates or the name of a published set; none: the export's own, or `a photo of a {}.`
        image_size: input size in pixels of an image-text model or an export, if not its own.

    Raises:
        UnusableSpecError: there is no such model, its weights are not to be had, or an argument is not for it.
    """
    spec = ModelSpec(name=f"local-dir:{name}" if Path(name).is_dir() else str(name), image_size=image_size)
    if problem := catalogue.check_model_name(spec.name, weights_dir=catalogue.weights_dir()):
        raise UnusableSpecError(problem)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if catalogue.is_timm_model(spec.name):
        if wrong := [name for name, given in (("class_names", class_names), ("templates", templates)) if given]:
            raise UnusableSpecError(f"{' and '.join(wrong)}: {spec.name} has classes of its own")
        return _timm_model(spec, pretrained=pretrained, device=target)
    if not pretrained:
        spec = spec.model_copy(update={"name": _without_weights(spec.name)})
    stored = read_export(Path(spec.name.removeprefix("local-dir:"))) if spec.name.startswith("local-dir:") else {}
    exif = stored.get("preprocess", {}).get("exif", "ignore")
    return ZeroShotModel(
        load_clip(spec, exif=exif),
        class_names=class_names or stored.get("class_names"),
        templates=templates or stored.get("templates") or DataSpec().templates,
        device=target,
    )


def _timm_model(spec: ModelSpec, *, pretrained: bool, device: torch.device) -> ImageModel:
    folder = Path(spec.name.removeprefix("local-dir:"))
    if spec.name.startswith("local-dir:") and read_export(folder):
        if not pretrained:
            raise UnusableSpecError(f"pretrained=False: {spec.name} is a trained model; name its architecture instead")
        return ExportedClassifier(read_classifier(folder, image_size=spec.image_size), device=device)
    if spec.image_size is not None:
        raise UnusableSpecError(f"image_size: {spec.name} keeps its own input size")
    return TimmModel(spec.name, _whole_timm(spec.name, pretrained=pretrained), device=device)


def _whole_timm(name: str, *, pretrained: bool) -> nn.Module:
    """A timm model with the head that its weights have, or that its architecture has without weights."""
    architecture, has_weights, overlay = locate_timm(name)
    try:
        return timm.create_model(architecture, pretrained=pretrained and has_weights, pretrained_cfg_overlay=overlay)
    except (RuntimeError, OSError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f"model {name!r}: {first_line(error)}") from error


def _without_weights(name: str) -> str:
    if name.startswith(("local-dir:", "hf-hub:")):
        raise UnusableSpecError(f"pretrained=False: {name} is a trained model; name its architecture instead")
    return name.partition("/")[0]


def _pixels(model: ClipModel | ClassifierModel, device: torch.device) -> Pixels:
    return Pixels(model.preprocess, device=device)


def _tasks() -> dict[str, Task]:
    """Task by name."""
    tasks: dict[str, Task] = {}
    for name in timm.list_models(pretrained=True):
        classes = timm.get_pretrained_cfg(name).num_classes
        tasks[f"timm/{name}"] = "Image Classification" if _classifies(classes, name) else "null"
    for architecture, known in catalogue.architectures().items():
        tasks.update({f"{architecture}/{tag}": "Zero-Shot Classification" for tag in known.pretrained})
    openai = [name for theirs in catalogue.openai_models() for name in (theirs, f"openai/{theirs}")]
    for name in (*openai, *catalogue.mmpretrain_models()):
        if (resolved := catalogue.resolve_alias(name)) in tasks:
            tasks[name] = tasks[resolved]
    return tasks


def _classifies(num_classes: int, name: str) -> bool:
    """Whether the last layer of weights gives classes: in CLIP's own towers it is the projection into the shared space,
    as many numbers as they may be."""
    is_projection = "_clip" in name and "_ft_" not in name
    return bool(num_classes) and not is_projection


def _imagenet_names(module: nn.Module) -> tuple[str, ...] | None:
    """Class names of ImageNet's known subsets, by the number of classes; None for others."""
    subset = infer_imagenet_subset(module)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))
