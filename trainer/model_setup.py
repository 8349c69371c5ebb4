"""The model of a job, ready to train: loaded, given a head where it classifies, and set to its precision."""

from __future__ import annotations

import numpy as np
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from dali_pipelines.loader import EvalLoader
from dali_pipelines.manifest import Manifest
from trainer import heads
from trainer.catalogue import is_timm_model
from trainer.errors import UnusableSpecError
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.export import clip_export_problem
from trainer.models import (
    ClassifierModel,
    ClipModel,
    clip_classifier,
    image_projection,
    load_clip,
    load_timm_classifier,
)
from trainer.prompts import expand_templates
from trainer.spec import JobSpec
from trainer.throughput import forward_flops
from trainer.timm_layout import classifier_export_problem

_NORM_SAMPLES = 64  # images that set the temperature of a head made from text


def build_model(spec: JobSpec, *, train: Manifest) -> ClipModel | ClassifierModel:
    """The model that a job trains, with its head if it classifies `train`'s classes.

    Raises:
        UnusableSpecError: it cannot be had, or what comes out of training could not be exported.
    """
    model = _load(spec, train=train)
    if isinstance(model, ClassifierModel):
        problem = classifier_export_problem(model.config)
    else:
        problem = clip_export_problem(model)
    if problem:  # better now than after the last step
        raise UnusableSpecError(f"model.name {model.name!r} could not be exported after training: {problem}")
    return model


def apply_compute_options(spec: JobSpec, module: nn.Module) -> None:
    """Precision of the inputs, activation checkpointing and compilation, before DeepSpeed takes the module.

    Raises:
        UnusableSpecError: the model cannot do it.
    """
    _take_low_precision_inputs(spec, module)
    if spec.parallel.activation_checkpointing:
        _checkpoint_activations(module)
    if spec.parallel.compile:
        for block in _transformer_blocks(module):
            block.compile()


def forward_flops_per_sample(model: ClipModel | ClassifierModel, *, device: torch.device) -> int:
    """FLOPs of one image, and one text if the model reads text, through the forward pass."""
    size = model.preprocess.image_size
    inputs = [torch.zeros(1, 3, size, size, device=device)]
    if isinstance(model, ClipModel):
        inputs.append(model.tokenize(["a"]).to(device))
    return forward_flops(model.module, *inputs)


def _load(spec: JobSpec, *, train: Manifest) -> ClipModel | ClassifierModel:
    exif = spec.data.exif
    if spec.objective.name != "classification":
        return load_clip(spec.model, exif=exif)
    if is_timm_model(spec.model.name):
        classifier = load_timm_classifier(spec.model, class_names=train.class_names, exif=exif)
        heads.init_fresh_head(classifier.module.head)
        return classifier
    clip = load_clip(spec.model, exif=exif)
    classifier = clip_classifier(clip, class_names=train.class_names)
    if spec.objective.head == "fresh":
        heads.init_fresh_head(classifier.module.head)
    else:
        _init_head_from_text(classifier, clip=clip, spec=spec, train=train)
    return classifier


@torch.no_grad()
def _init_head_from_text(classifier: ClassifierModel, *, clip: ClipModel, spec: JobSpec, train: Manifest) -> None:
    clip.module.eval()
    class_weights = zero_shot_weights(
        clip.module,
        clip.tokenize,
        train.class_names,
        expand_templates(spec.data.templates),
        device=torch.device("cpu"),
    )
    spread = np.linspace(0, len(train) - 1, min(_NORM_SAMPLES, len(train))).astype(int)  # over all classes
    sample = train.select(spread)
    loader = EvalLoader(sample, preprocess=clip.preprocess, batch_size=16, on_bad_sample=spec.data.on_bad_sample)
    features = torch.cat([clip.module.encode_image(batch.images) for batch in loader])  # (N, D)
    heads.init_zero_shot_head(
        classifier.module.head,
        class_weights_dc=class_weights,
        projection_fd=image_projection(clip.module.visual),
        logit_scale=clip.module.logit_scale.exp().item(),
        feature_norm=features.norm(dim=-1).mean().item(),
    )


def _checkpoint_activations(module: nn.Module) -> None:
    tower = module.trunk if isinstance(module, heads.ImageClassifier) else module.visual
    if isinstance(tower, ModifiedResNet):
        raise UnusableSpecError(
            "parallel.activation_checkpointing does nothing for CLIP's ResNet towers; turn it off, or use a ViT"
        )
    whole = tower if isinstance(module, heads.ImageClassifier) else module
    whole.set_grad_checkpointing(True)


def _take_low_precision_inputs(spec: JobSpec, module: nn.Module) -> None:
    """Low-precision weights take low-precision images; the loader makes float32."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(spec.parallel.precision)
    if dtype is None:
        return

    def cast_inputs(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)

    module.register_forward_pre_hook(cast_inputs)


def _transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks: compiled one by one, they are compiled once and leave DeepSpeed's hooks alone."""
    lists = [m for name, m in module.named_modules() if name.rpartition(".")[2] in ("resblocks", "blocks")]
    blocks = [block for blocks in lists for block in blocks]
    return blocks or [module]
