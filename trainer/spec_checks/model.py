"""Models: towers, heads, locks, adapters and prompts against each other and against the objective."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer import catalogue
from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import Adapter, ImageTowerSpec, JobSpec, ModelSpec, TextTowerSpec

_TRAINED_ONLY = {
    "image": ("lock", "lock_patterns", "head", "adapter", "drop_path", "dropout"),
    "text": ("lock", "lock_patterns", "head", "adapter", "prompt"),
}
_SHORTEST_TEXT = 3  # start, one token, end


def _classification(spec: JobSpec) -> Iterator[Problem]:
    objective, model = spec.objective, spec.model
    if objective.name != "classification":
        return
    reason = "has no effect: `classification` trains the image tower and its own head"
    yield from _set_fields(model.text, "model.text", ("lock", "lock_patterns", "head", "adapter", "prompt"), reason)
    yield from _set_fields(model.image, "model.image", ("head",), reason)
    if objective.head != "zero_shot":
        reason = f"has no effect: only a `zero_shot` head is made from text, not objective.head `{objective.head}`"
        yield from _set_fields(model.text, "model.text", ("tower", "pooling", "context_length"), reason)
    if model.image.tower is not None:
        message = f"`classification` trains a timm model by itself: set model.name to {model.image.tower!r}"
        yield Problem("model.image.tower", model.image.tower, message)
    if objective.head == "keep" and not model.name.startswith("local-dir:"):
        message = f"`keep` needs a trained classifier, `local-dir:EXPORT` or a registered one, not {model.name!r}"
        yield Problem("objective.head", "keep", message)


def _features(spec: JobSpec) -> Iterator[Problem]:
    objective, name = spec.objective, spec.model.name
    if objective.name != "classification":
        return
    if objective.features == "mean_patches" and objective.head == "zero_shot":
        message = "no head on `mean_patches` can be made from text: they lie in another space; use `fresh` or `probe`"
        yield Problem("objective.head", "zero_shot", message)
    if objective.features == "projected" and name.startswith("timm/"):
        message = f"{name!r} has no space that it shares with texts; use `pooled` or `mean_patches`"
        yield Problem("objective.features", "projected", message)
    if objective.features == "mean_patches" and _is_resnet(spec.model):
        message = f"{name!r} is a ResNet, without patch tokens; use `pooled`"
        yield Problem("objective.features", "mean_patches", message)


def _towers(spec: JobSpec) -> Iterator[Problem]:
    image, text = spec.model.image, spec.model.text
    if image.tower is not None:
        bare, _, tag = image.tower.removeprefix("timm/").partition(".")
        if not image.tower.startswith("timm/") or bare not in catalogue.timm_models() or "/" in tag:
            message = f"{image.tower!r} is no image model of timm; write timm/NAME or timm/NAME.TAG"
            yield Problem("model.image.tower", image.tower, message)
    if text.tower is not None and not _is_text_encoder(text.tower):
        message = f"{text.tower!r} is no text encoder; write hf-hub:ORG/NAME or local-dir:FOLDER"
        yield Problem("model.text.tower", text.tower, message)
    if text.tower is None:
        reason = "has no effect: it is for the Hugging Face encoder in model.text.tower, which is not set"
        yield from _set_fields(text, "model.text", ("pooling",), reason)
    own = _context_length(spec.model)
    if own is not None and text.context_length is not None and text.context_length > own:
        message = f"{spec.model.name!r} has positions for {own} tokens, which can only be shortened"
        yield Problem("model.text.context_length", text.context_length, message)
    if text.context_length is not None and text.context_length < _SHORTEST_TEXT:
        message = f"{text.context_length} leaves no room for text between start and end; use {_SHORTEST_TEXT} or more"
        yield Problem("model.text.context_length", text.context_length, message)


def _is_text_encoder(tower: str) -> bool:
    hub = "hf-hub:"
    return tower.startswith("local-dir:") or tower.startswith(hub) and catalogue.is_repository(tower.removeprefix(hub))


def _regularisation(spec: JobSpec) -> Iterator[Problem]:
    image = spec.model.image
    for name in ("drop_path", "dropout"):
        rate = getattr(image, name)
        if not rate:
            continue
        if image.lock or spec.model.eval_mode:
            why = "model.image.lock" if image.lock else "model.eval_mode"
            yield Problem(f"model.image.{name}", rate, f"has no effect: {why} keeps the tower in evaluation mode")
        elif _is_resnet(spec.model):
            message = f"{spec.model.name!r} is a ResNet of CLIP, which has no place for it; set it to 0"
            yield Problem(f"model.image.{name}", rate, message)


def _heads(spec: JobSpec) -> Iterator[Problem]:
    image, text = spec.model.image.head, spec.model.text.head
    architecture = _architecture(spec.model)
    size = None if architecture is None else architecture.embed_dim
    sizes = [(head.output_size if head is not None else None) or size for head in (image, text)]
    if (image or text) and None not in sizes and sizes[0] != sizes[1]:
        message = f"the image tower gives {sizes[0]} dimensions and the text tower {sizes[1]}; both must agree"
        field = "model.image.head" if image is not None else "model.text.head"
        yield Problem(f"{field}.output_size", (image or text).output_size, message)  # type: ignore[union-attr]


def _adapters(spec: JobSpec) -> Iterator[Problem]:
    towers: tuple[tuple[str, ImageTowerSpec | TextTowerSpec], ...] = (
        ("model.image.adapter", spec.model.image),
        ("model.text.adapter", spec.model.text),
    )
    unused = {"ia3": ("rank", "alpha", "dropout"), "vera": ("alpha",)}
    for field, tower in towers:
        adapter: Adapter | None = tower.adapter
        if adapter is not None:
            reason = f"has no effect: the method `{adapter.method}` has none"
            yield from _set_fields(adapter, field, unused.get(adapter.method, ()), reason)
            if not adapter.targets:
                yield Problem(f"{field}.targets", [], "name at least one pattern")


def _prompt(spec: JobSpec) -> Iterator[Problem]:
    prompt, text = spec.model.text.prompt, spec.model.text
    if prompt is None:
        if "itra-prompt-pooling" in spec.compat:
            message = "`itra-prompt-pooling` has no effect without model.text.prompt"
            yield Problem("compat", list(spec.compat), message)
        return
    architecture = _architecture(spec.model)
    if text.tower is not None or (architecture is not None and architecture.text.get("hf_model_name")):
        message = "a learned prompt needs a text tower of open_clip, not a Hugging Face encoder"
        yield Problem("model.text.prompt", prompt.model_dump(), message)
    length = text.context_length or _context_length(spec.model)
    if length is not None and prompt.length > length - _SHORTEST_TEXT:
        message = f"leaves no room for text in a context of {length} tokens; use at most {length - _SHORTEST_TEXT}"
        yield Problem("model.text.prompt.length", prompt.length, message)


def _image_model(spec: JobSpec) -> Iterator[Problem]:
    if spec.model.name.startswith("timm/"):
        reason = f"has no effect: {spec.model.name!r} has no text tower"
        yield from _set_fields(spec.model.text, "model.text", tuple(type(spec.model.text).model_fields), reason)


def _teacher(spec: JobSpec) -> Iterator[Problem]:
    if spec.objective.name != "distillation":
        return
    teacher, field, reason = spec.objective.teacher, "objective.teacher", "has no effect: a teacher is not trained"
    yield from _set_fields(teacher, field, ("freeze", "eval_mode"), reason)
    for tower, names in _TRAINED_ONLY.items():
        yield from _set_fields(getattr(teacher, tower), f"{field}.{tower}", names, reason)


def _set_fields(section: Any, field: str, names: tuple[str, ...], reason: str) -> Iterator[Problem]:
    """A problem for each of the named fields that is not at its default."""
    for name in names:
        value = getattr(section, name)
        if value != type(section).model_fields[name].default:
            shown = value.model_dump() if hasattr(value, "model_dump") else value
            yield Problem(f"{field}.{name}", shown, f"{field}.{name} {reason}")


def _architecture(model: ModelSpec) -> catalogue.Architecture | None:
    """What is known of a model by its name; None for folders, repositories and timm's models."""
    if model.name.startswith(("local-dir:", "hf-hub:", "timm/")):
        return None
    return catalogue.architectures().get(model.name.partition("/")[0])


def _is_resnet(model: ModelSpec) -> bool:
    """Whether the image tower is known to be one of CLIP's ResNets."""
    architecture = _architecture(model)
    if architecture is None or model.image.tower is not None or architecture.vision.get("timm_model_name"):
        return False
    return isinstance(architecture.vision.get("layers"), (list, tuple))


def _context_length(model: ModelSpec) -> int | None:
    """Tokens of the model's own text tower, if that is used and known."""
    architecture = _architecture(model)
    return None if architecture is None or model.text.tower is not None else architecture.context_length


CHECKS = (
    _classification,
    _features,
    _towers,
    _regularisation,
    _heads,
    _adapters,
    _prompt,
    _image_model,
    _teacher,
)
