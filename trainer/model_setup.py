"""The model of a job, ready to train: loaded, given what the spec adds, its head initialised, its locks applied.

`build_structure` makes the same model on torch's meta device, without weights, data or a network: shapes, names and
what trains are those of `build_model`, which goes the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from dali_pipelines.manifest import Manifest
from trainer import adapters, additions, heads, tower_dropout
from trainer.catalogue import is_timm_model
from trainer.classifier_layout import is_own
from trainer.errors import UnusableSpecError
from trainer.export import clip_export_problem
from trainer.freezing import freeze_matching, lock_tower, refuse_nothing_to_train
from trainer.head_setup import init_head, with_classes, with_new_head
from trainer.models import ClassifierModel, ClipModel, clip_classifier, load_clip, load_timm_classifier
from trainer.objectives.fitting import fit_to_objective
from trainer.spec import ImageTowerSpec, JobSpec, TextTowerSpec
from trainer.stored_classifiers import read_classifier
from trainer.throughput import forward_flops
from trainer.towers import extend, image_parameters, text_modules, text_parameters, text_tower

_Tower = tuple[
    str, ImageTowerSpec | TextTowerSpec, nn.Module, dict[str, nn.Parameter], tuple[str, ...]
]  # spec field, spec, module, parameters by their names within the tower, names of its submodules


def build_structure(spec: JobSpec, *, num_classes: int | None) -> ClipModel | ClassifierModel:
    """The model that a job trains, on the meta device, with everything but weights and tokenizer.

    Args:
        spec: the job.
        num_classes: classes of the head of a `classification` job; None for other objectives.

    Raises:
        UnusableSpecError: there is no such model, what the spec adds does not fit it, or what comes out of training
            could not be exported.
        ValueError: a head without a number of classes.
    """
    if spec.objective.name == "classification" and num_classes is None:
        raise ValueError("the objective `classification` has a head: give num_classes")
    class_names = [str(label) for label in range(num_classes or 0)]  # nobody knows their names yet
    model, _ = _assembled(spec, class_names=class_names, weights=False)
    return _arranged(model, spec)


def build_model(
    spec: JobSpec, *, train: Manifest, validation: Manifest | None = None, probe_file: Path | None = None
) -> ClipModel | ClassifierModel:
    """The model that a job trains, with its head if it classifies `train`'s classes.

    Args:
        spec: the job.
        train: training data, whose classes the head has.
        validation: held-out data, which may choose the strength of a probe behind the head.
        probe_file: where the head of `objective.head` `probe` is kept once it is fitted, or None.

    Raises:
        UnusableSpecError: it cannot be had, what the spec adds does not fit it, or what comes out of training could
            not be exported.
    """
    model, clip = _assembled(spec, class_names=train.class_names, weights=True)
    if isinstance(model, ClassifierModel):
        init_head(model, clip=clip, spec=spec, train=train, validation=validation, probe_file=probe_file)
    return _arranged(model, spec)


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


def _assembled(
    spec: JobSpec, *, class_names: Sequence[str], weights: bool
) -> tuple[ClipModel | ClassifierModel, ClipModel | None]:
    """The model as it is named, with an untrained head where it classifies, and the image-text model behind that."""
    model, exif = spec.model, spec.data.exif
    if spec.objective.name != "classification":
        clip = load_clip(model, exif=exif, weights=weights)
        if problem := clip_export_problem(clip):  # better now than after the last step
            raise UnusableSpecError(f"model.name {model.name!r} could not be exported after training: {problem}")
        return clip, None
    if is_timm_model(model.name):
        return _image_model(spec, class_names=class_names, weights=weights), None
    clip = load_clip(model, exif=exif, weights=weights)
    with torch.device("cpu" if weights else "meta"):
        return clip_classifier(clip, class_names=class_names, features=spec.objective.features), clip


def _image_model(spec: JobSpec, *, class_names: Sequence[str], weights: bool) -> ClassifierModel:
    """A model without a text tower: timm's, or an exported classifier."""
    assert spec.objective.name == "classification"
    model, features, exif = spec.model, spec.objective.features, spec.data.exif
    if not model.name.startswith("local-dir:"):
        return load_timm_classifier(model, class_names=class_names, features=features, exif=exif, weights=weights)
    folder = Path(model.name.removeprefix("local-dir:"))
    if spec.objective.head == "keep":
        kept = read_classifier(folder, image_size=model.image_size, weights=weights)
        return with_classes(kept, class_names, features=features)
    if is_own(folder):
        kept = read_classifier(folder, image_size=model.image_size, weights=weights)
        return with_new_head(kept, class_names, features=features)
    return load_timm_classifier(model, class_names=class_names, features=features, exif=exif, weights=weights)


def _arranged(model: ClipModel | ClassifierModel, spec: JobSpec) -> ClipModel | ClassifierModel:
    """Add what the spec asks for, and settle what trains."""
    image = spec.model.image
    visual = model.module.trunk if isinstance(model, ClassifierModel) else model.module.visual
    tower_dropout.apply(visual, drop_path=image.drop_path, dropout=image.dropout)
    if isinstance(model, ClipModel):
        structure = model.module.logit_scale.is_meta
        model = additions.added(
            model, spec.model, unshifted_pooling="itra-prompt-pooling" in spec.compat, structure=structure
        )
    _lock_and_adapt(model, spec)
    if isinstance(model, ClipModel):
        model = fit_to_objective(model, objective=spec.objective)
    freeze_matching(model.module, patterns=spec.model.freeze)
    refuse_nothing_to_train(model.module)
    return model


def _lock_and_adapt(model: ClipModel | ClassifierModel, spec: JobSpec) -> None:
    held: tuple[str, ...] = ()
    for field, tower, module, parameters, submodules in _towers(model, spec):
        frozen = tower.lock or tower.adapter is not None
        lock_tower(parameters, locked=frozen, patterns=tower.lock_patterns, field=f"{field}.lock_patterns")
        if tower.adapter is not None:
            adapters.inject(module, tower.adapter, field=f"{field}.adapter", names=parameters)
        held += submodules if tower.lock else ()
    if held:
        holder = model.module if isinstance(model, ClassifierModel) else extend(model.module)
        holder.held_towers = held


def _towers(model: ClipModel | ClassifierModel, spec: JobSpec) -> Iterator[_Tower]:
    image, text, module = spec.model.image, spec.model.text, model.module
    if isinstance(model, ClassifierModel):
        yield "model.image", image, module.trunk, dict(module.trunk.named_parameters()), ("trunk",)
        return
    visual = _without_new_projection(image_parameters(module), "head." if image.tower is not None else None)
    yield "model.image", image, module.visual, visual, ("visual",)
    words = _without_new_projection(text_parameters(module), "proj." if text.tower is not None else None)
    yield "model.text", text, text_tower(module), words, text_modules(module)


def _without_new_projection(parameters: dict[str, nn.Parameter], prefix: str | None) -> dict[str, nn.Parameter]:
    """What may be locked: a tower put in place of the model's own has a projection that nobody has trained yet."""
    return {name: p for name, p in parameters.items() if prefix is None or not name.startswith(prefix)}


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
