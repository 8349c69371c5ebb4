"""The body of a new fine-tuning job: OpenAI's fields, a recipe and a partial spec, as one partial JobSpec.

The body only says where each of OpenAI's fields belongs in the spec; `trainer.resolve.resolve` makes the JobSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from service.schemas.base import Body
from trainer.recipes import RECIPES
from trainer.resolve import SpecError, SpecProblem
from trainer.spec import OptimSpec

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
MAX_DEPTH = 16
"""A JobSpec is not half as deep."""


def _none_if_auto(value: Any) -> Any:
    return None if value == "auto" else value


Auto = BeforeValidator(_none_if_auto)


class Hyperparameters(Body):
    """OpenAI's hyper-parameters; the spec has these and all others by their own names. `auto` leaves one alone."""

    n_epochs: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, Auto] = None
    """Stands for `spec.schedule.epochs`."""
    batch_size: Annotated[Annotated[int, Field(ge=1)] | None, Auto] = None
    """Stands for `spec.batch.global_size`."""
    learning_rate_multiplier: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, Auto] = None
    """Multiplies the learning rate of the spec or, if that names none, of the recipe."""


class JobCreate(Body):
    """A new fine-tuning job. A field may be given here or in `spec`, not here and there with different values."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """The model to start from, as in `spec.model.name`; without it, the recipe's own."""
    training_file: str = ""
    """Id of an uploaded file (`file-...`), or path of an image folder or a table on the service's machine; empty if
    `spec.data.train` names the data. Paths in `spec.data` may be ids of files too."""
    validation_file: str | None = None
    """Held-out data, likewise, as in `spec.data.validation`."""
    recipe: str | None = None
    """Name of a recipe to start from; `GET /v1/recipes` lists them."""
    spec: Annotated[
        dict[str, Any],
        WithJsonSchema({"allOf": [{"$ref": "#/components/schemas/JobSpec"}], "description": "Any part of a JobSpec."}),
    ] = Field(default_factory=dict)
    """Any part of a JobSpec; it goes over the recipe."""
    suffix: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Becomes part of the fine-tuned model's name: up to 64 letters, digits, `.`, `_` and `-`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Seed of every random draw."""
    metadata: Metadata | None = None
    """Up to 16 notes of your own, which the list of jobs can be filtered by."""
    hyperparameters: Hyperparameters | None = None
    """OpenAI's hyper-parameters."""
    method: None = None
    """Not used; say how to train with `spec.objective`."""
    integrations: list[Any] | None = None
    """Not used; leave empty."""

    @field_validator("method", mode="before")
    @classmethod
    def _no_method(cls, value: Any) -> None:
        if value is not None:
            raise ValueError(
                "OpenAI's methods are for language models; say how to train with spec.objective, such as "
                '{"objective": {"name": "class_prompts"}} (contrastive, class_prompts or classification), '
                "or choose a recipe"
            )

    @field_validator("integrations")
    @classmethod
    def _no_integrations(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError(
                "no integration is supported; leave this empty. Metrics come as events, in TensorBoard files "
                "in the job folder and at /metrics"
            )
        return value

    def partial_spec(self) -> dict[str, Any]:
        """`spec` with the other fields where they belong in it.

        Raises:
            SpecError: a field and the spec contradict each other, or something cannot be stored.
        """
        if unstorable := list(_find_unstorable(self.model_dump(exclude={"spec"}))) + list(_find_unstorable(self.spec)):
            raise SpecError(unstorable)
        placed = _Placed(self.spec)
        placed.put("model", ("model", "name"), self.model)
        placed.put("training_file", ("data", "train"), self.training_file or None)
        placed.put("validation_file", ("data", "validation"), self.validation_file)
        placed.put("seed", ("seed",), self.seed)
        placed.put("metadata", ("metadata",), self.metadata)
        placed.put("recipe", ("recipe",), self.recipe)
        if self.hyperparameters is not None:
            self._place_hyperparameters(placed, self.hyperparameters)
        if placed.problems:
            raise SpecError(placed.problems)
        return placed.spec

    def _place_hyperparameters(self, placed: _Placed, given: Hyperparameters) -> None:
        placed.put("hyperparameters.n_epochs", ("schedule", "epochs"), given.n_epochs)
        placed.put("hyperparameters.batch_size", ("batch", "global_size"), given.batch_size)
        base = self._base_learning_rate(placed.spec)
        if given.learning_rate_multiplier is not None and isinstance(base, int | float):
            placed.replace(("optim", "lr"), base * given.learning_rate_multiplier)

    def _base_learning_rate(self, spec: Mapping[str, Any]) -> Any:
        """What the multiplier multiplies; whatever stands in `spec`, even if `resolve` will refuse it."""
        optim = spec.get("optim")
        if isinstance(optim, Mapping) and "lr" in optim:
            return optim["lr"]
        recipe = RECIPES.get(str(spec.get("recipe")))
        return recipe.build().optim.lr if recipe else OptimSpec().lr


class _Placed:
    """A partial spec under construction. What is not a mapping where one belongs is left for `resolve` to refuse."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        if isinstance(self.spec.get("model"), str):
            self.spec["model"] = {"name": self.spec["model"]}
        self.problems: list[SpecProblem] = []

    def put(self, field: str, path: tuple[str, ...], value: Any) -> None:
        """Put the body's `field` at `path`, or note that the spec says something else there."""
        if value is None:
            return
        there = self._at(path)
        if there is not None and there != value:
            where = ".".join(path)
            message = f"{field} is {value!r}, but spec.{where} is {there!r}; give one of the two"
            self.problems.append(SpecProblem(field=field, message=message, value=value))
        else:
            self.replace(path, value)

    def replace(self, path: tuple[str, ...], value: Any) -> None:
        """Put `value` at `path`, whatever is there."""
        section = self.spec
        for name in path[:-1]:
            below = section.get(name)
            if below is not None and not isinstance(below, Mapping):
                return
            section[name] = dict(below or {})
            section = section[name]
        section[path[-1]] = value

    def _at(self, path: tuple[str, ...]) -> Any:
        value: Any = self.spec
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def _find_unstorable(value: Any, path: tuple[str, ...] = ()) -> Iterator[SpecProblem]:
    """What JSON can say but a file name or a database cannot, and nesting that no spec has."""
    if len(path) > MAX_DEPTH:
        yield SpecProblem(field=".".join(path), message=f"nothing in a spec is nested {MAX_DEPTH} deep")
    elif isinstance(value, str) and not _is_text(value):
        message = f"{value!r} holds a character that belongs in no text"
        yield SpecProblem(field=".".join(path), message=message, value=repr(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if _is_text(key):
                yield from _find_unstorable(inner, (*path, key))
            else:
                yield from _find_unstorable(key, (*path, repr(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _find_unstorable(inner, (*path, str(index)))


def _is_text(value: str) -> bool:
    """Neither a zero character nor half of a surrogate pair."""
    return "\0" not in value and (value.isascii() or value.encode(errors="ignore").decode() == value)


EXAMPLES: dict[str, Any] = {
    "flyp": {
        "summary": "A recipe on an image folder",
        "value": {
            "model": "ViT-B-16/openai",
            "recipe": "flyp",
            "training_file": "/data/flowers/train",
            "validation_file": "/data/flowers/validation",
            "suffix": "flowers",
            "hyperparameters": {"n_epochs": 5, "batch_size": 256},
        },
    },
    "spec": {
        "summary": "A spec of one's own: captions, ZeRO stage 2 on eight GPUs",
        "value": {
            "model": "ViT-L-14/openai",
            "training_file": "",
            "spec": {
                "objective": {"name": "contrastive"},
                "data": {
                    "train": {"format": "csv", "path": "/data/captions.tsv", "caption_column": "caption"},
                    "augmentation": {"crop_scale": [0.9, 1.0]},
                },
                "batch": {"global_size": 1024, "micro_size": 64},
                "optim": {"lr": 1e-5, "weight_decay": 0.1, "ema_decay": 0.9999},
                "parallel": {"devices": 8, "zero_stage": 2},
            },
            "metadata": {"project": "catalogue"},
        },
    },
    "from-scratch": {
        "summary": "A small CLIP without pretrained weights, on CPU processes",
        "value": {
            "model": "attune-tiny-32",
            "recipe": "flyp",
            "training_file": "/data/digits/train",
            "spec": {
                "batch": {"global_size": 64},
                "optim": {"lr": 1e-3},
                "parallel": {"devices": 2, "zero_stage": 2},
            },
        },
    },
}
"""Bodies for the OpenAPI page."""
