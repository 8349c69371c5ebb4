"""The diagonal of a model's Fisher information: how much each weight matters to what the model says of images.

For a weight w it is the mean over images x of (d log p(y | x) / d w)², with y drawn from the model's own prediction
(Matena & Raffel 2021, https://arxiv.org/abs/2111.09832). An image-text model predicts zero-shot: its classes are
their prompts, so that both towers and the logit scale take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from dali_pipelines.loader import EvalLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.transforms import Preprocess
from trainer import additions, classifier_layout
from trainer.evaluation.protocol import aligned
from trainer.interpolation import InterpolationError
from trainer.model_types import ClassifierModel, ClipModel
from trainer.models import load_clip
from trainer.spec import ModelSpec
from trainer.stored_classifiers import read_classifier
from trainer.towers import ADDITIONS

_BATCH_SIZE = 32  # images decoded at a time; gradients are one image's each

Labels = Literal["sampled", "predicted", "true"]


@dataclass(frozen=True)
class Differentiable:
    """A model from an export, ready for gradients."""

    logits: Callable[[Tensor], Tensor]
    """(B, 3, H, W) -> (B, C)."""
    parameters: Mapping[str, Mapping[str, nn.Parameter]]
    """By file of the export, and name in it."""
    preprocess: Preprocess
    class_names: tuple[str, ...]


def diagonal_fisher(
    model: Differentiable, manifest: Manifest, *, labels: Labels, seed: int, device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """The mean squared gradient of each parameter over the images, float32 by file and name.

    Args:
        model: on `device`.
        manifest: images, labelled by the model's classes where `labels` is `true`.
        labels: whose log-likelihood is differentiated.
        seed: of the labels that are drawn.
        device: where to compute.

    Raises:
        InterpolationError: an image has no label and `labels` is `true`.
    """
    if labels == "true" and (manifest.labels < 0).any():
        raise InterpolationError("--labels true needs a label of each image")
    flat = {(file, name): p for file, named in model.parameters.items() for name, p in named.items()}
    sums = {key: torch.zeros_like(parameter, dtype=torch.float32) for key, parameter in flat.items()}
    generator = torch.Generator().manual_seed(seed)
    count = 0
    for image, row in _images(model, manifest, device):
        log_likelihoods_c = model.logits(image)[0].float().log_softmax(dim=0)
        label = _label(log_likelihoods_c.detach().cpu(), labels, int(manifest.labels[row]), generator)
        gradients = torch.autograd.grad(
            log_likelihoods_c[label], list(flat.values()), allow_unused=True, retain_graph=True
        )
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient.float() ** 2
        count += 1
    found: dict[str, dict[str, Tensor]] = {file: {} for file in model.parameters}
    for (file, name), total in sums.items():
        found[file][name] = (total / count).cpu()
    return found


def differentiable(
    folder: Path, *, class_names: Sequence[str], templates: Sequence[str], device: torch.device
) -> Differentiable:
    """The model in an export's folder, in evaluation mode on `device`.

    Args:
        folder: an export.
        class_names: the classes that an image-text model predicts; a classifier has its own.
        templates: prompt templates of an image-text model.
        device: where it goes.
    """
    if (folder / "open_clip_config.json").is_file():
        clip = load_clip(ModelSpec(name=f"local-dir:{folder}"))
        return _zero_shot(clip, class_names, templates, device)
    classifier = read_classifier(folder)
    if classifier_layout.is_own(folder):
        return _own(classifier, device)
    whole = timm.create_model(f"local-dir:{folder}", pretrained=True).to(device).eval()
    return Differentiable(
        whole, {"model.safetensors": dict(whole.named_parameters())}, classifier.preprocess, classifier.class_names
    )


def spread(manifest: Manifest, *, num_samples: int | None) -> Manifest:
    """As many images as asked for, evenly over the data and thus over its classes."""
    if num_samples is None or num_samples >= len(manifest):
        return manifest
    return manifest.select(np.linspace(0, len(manifest) - 1, num_samples).astype(int))


def align_labels(manifest: Manifest, model: Differentiable) -> Manifest:
    """The images with their labels as the model numbers its classes."""
    return aligned(manifest, model.class_names, dataset="--data") if manifest.class_names else manifest


def _own(classifier: ClassifierModel, device: torch.device) -> Differentiable:
    module = classifier.module.to(device).eval()
    files = {
        "image_tower.safetensors": dict(module.trunk.named_parameters()),
        "head.safetensors": dict(module.head.named_parameters()),
    }
    return Differentiable(module, files, classifier.preprocess, classifier.class_names)


def _zero_shot(
    clip: ClipModel, class_names: Sequence[str], templates: Sequence[str], device: torch.device
) -> Differentiable:
    if not class_names:
        raise InterpolationError("an image-text model predicts the classes of the data, and these have none")
    module = clip.module.to(device).eval()
    weights_dc = _class_weights(clip, class_names, templates, device)

    def logits(images: Tensor) -> Tensor:
        return module.logit_scale.exp() * module.encode_image(images, normalize=True) @ weights_dc

    files: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        file = additions.FILE if name.partition(".")[0] in ADDITIONS else "open_clip_model.safetensors"
        files.setdefault(file, {})[name] = parameter
    return Differentiable(logits, files, clip.preprocess, tuple(class_names))


def _class_weights(
    clip: ClipModel, class_names: Sequence[str], templates: Sequence[str], device: torch.device
) -> Tensor:
    """(D, C) unit-norm class embeddings over all templates, with gradients into the text tower."""
    means = []
    for template in templates:
        tokens = clip.tokenize([template.format(name) for name in class_names]).to(device)
        means.append(clip.module.encode_text(tokens, normalize=True))
    return functional.normalize(torch.stack(means).mean(dim=0), dim=-1).T


def _images(model: Differentiable, manifest: Manifest, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """(1, 3, H, W) and row of each image that can be read."""
    loader = EvalLoader(
        manifest,
        preprocess=model.preprocess,
        batch_size=_BATCH_SIZE,
        device=device.index if device.type == "cuda" else None,
        on_bad_sample="skip",
    )
    for batch in loader:
        for image, row in zip(batch.images, batch.rows, strict=True):
            if row >= 0:
                yield image[None], int(row)


def _label(log_likelihoods_c: Tensor, labels: Labels, true: int, generator: torch.Generator) -> int:
    if labels == "true":
        return true
    if labels == "predicted":
        return int(log_likelihoods_c.argmax())
    return int(torch.multinomial(log_likelihoods_c.exp(), 1, generator=generator))
