"""The one way to a JobSpec: a recipe, a partial spec and `--set` overrides, for the command line and REST alike.

Later ones win: recipe < spec < overrides. Imports no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from trainer import catalogue, recipes, spec_checks
from trainer.deepspeed_config import DeepSpeedConfigError, build_config
from trainer.spec import JobSpec

_UNION_MEMBER = re.compile(r"constrained-\w+|literal\[.*\]")  # pydantic's names for what a plain value may be
_IN_YAML = {
    "model_type": "Input should be a mapping of fields",
    "model_attributes_type": "Input should be a mapping of fields",
    "dict_type": "Input should be a mapping",
    "tuple_type": "Input should be a list",
}
"""Pydantic's errors about Python's types, in the words of a spec file."""
_KIND_FIELDS = ("name", "format")  # the fields that choose one of several layouts, of objectives and of data sources


class SpecProblem(BaseModel):
    """One thing wrong with a submitted spec."""

    field: str
    """Dotted path, such as `optim.lr`."""
    message: str
    """What is wrong, what was given and what is allowed."""
    value: Any = None
    """What was given."""


class SpecError(ValueError):
    """A spec cannot be made. `problems` lists why; the text holds one line a problem."""

    def __init__(self, problems: Sequence[SpecProblem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(f"{p.field}: {p.message}" if p.field else p.message for p in self.problems))


def resolve(
    *,
    recipe: str | None = None,
    spec: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    registered_models: Mapping[str, str] | None = None,
    runnable: bool = True,
    weights_dir: Path | None = None,
    guard: Callable[[Mapping[str, Any]], Sequence[SpecProblem]] | None = None,
) -> JobSpec:
    """Make a JobSpec.

    Args:
        recipe: name of a recipe to start from.
        spec: part of a spec, as read from YAML or JSON; its own `recipe` field counts if `recipe` is None.
        overrides: `dotted.path=VALUE`, the value as YAML.
        registered_models: export folder by name; such a `model.name` becomes `local-dir:FOLDER`.
        runnable: whether the training data must be named, as for a job (not for a plan).
        weights_dir: folder of further pretrained weights; None: what ATTUNE_WEIGHTS_DIR names.
        guard: what is wrong with the merged values, before any file that they name is looked at.

    Raises:
        SpecError: with every problem found.
    """
    partial = dict(spec or {})
    recipe = recipe or partial.get("recipe")
    merged: dict[str, Any] = {}
    if recipe is not None:
        merged = _recipe_named(recipe).build().model_dump(mode="json")
        merged["recipe"] = recipe
        partial.pop("recipe", None)
    merged = with_overrides(_merge(merged, partial), overrides)
    if merged.get("recipe") not in (None, recipe):
        message = "the fields of a recipe lie under all others: name it with --recipe or in the spec, not with --set"
        raise SpecError([SpecProblem(field="recipe", message=message, value=merged.get("recipe"))])
    if guard is not None and (refused := list(guard(merged))):
        raise SpecError(refused)
    _name_model(merged, registered_models or {})
    try:
        made = JobSpec.model_validate(merged)
    except ValidationError as error:
        raise SpecError([_problem(e) for e in told_once(error)]) from None
    if problems := _problems_outside(made, weights_dir=weights_dir or catalogue.weights_dir()):
        raise SpecError(problems)
    if runnable and made.data.train is None:
        raise SpecError([SpecProblem(field="data.train", message="name the training data: a folder or a table")])
    return made


def with_overrides(spec: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A partial spec with `dotted.path=VALUE` overrides on top; still partial, and not yet checked.

    Raises:
        SpecError: an override cannot be read.
    """
    merged = dict(spec)
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    return merged


def read_spec_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        SpecError: the file is missing, is no YAML, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError([SpecProblem(field="", message=f"cannot read {path}: {error.strerror}")]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError([SpecProblem(field="", message=f"{path} is not valid YAML: {error}")]) from None
    if not isinstance(content, dict):
        raise SpecError([SpecProblem(field="", message=f"{path} must hold a mapping of spec fields")])
    return content


def told_once(error: ValidationError) -> list[dict[str, Any]]:
    """Pydantic's errors, one a field: what a value may be is told together, and no list is short for its bad items."""
    told: dict[tuple[Any, ...], dict[str, Any]] = {}
    for problem in error.errors(include_url=False):
        loc = tuple(part for part in problem["loc"] if not _UNION_MEMBER.fullmatch(str(part)))
        if loc in told:
            told[loc]["msg"] += f", or {problem['msg'].removeprefix('Input should be ')}"
        elif problem["type"] != "too_short" or not any(other[: len(loc)] == loc for other in told):
            told[loc] = {**problem, "loc": loc}
    return list(told.values())


def near(name: str, known: Sequence[str]) -> str:
    """` Did you mean ...?` for an unknown name, or an empty string where nothing is near."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


def _problems_outside(spec: JobSpec, *, weights_dir: Path | None) -> list[SpecProblem]:
    """What is wrong with the models and files that a spec names, as far as it can be known without loading them."""
    name = spec.model.name
    if problem := catalogue.check_model_name(name, weights_dir=weights_dir):
        return [SpecProblem(field="model.name", message=problem, value=name)]
    problems = []
    teacher = getattr(spec.objective, "teacher", None)
    if teacher is not None and (problem := catalogue.check_model_name(teacher.name, weights_dir=weights_dir)):
        problems.append(SpecProblem(field="objective.teacher.name", message=problem, value=teacher.name))
    if catalogue.is_timm_model(name):
        found = spec_checks.problem_without_text_tower(spec)
        problems += [SpecProblem(field=found.field, message=found.message, value=found.value)] if found else []
    try:
        build_config(spec, world_size=1, micro_size=spec.batch.global_size)
    except DeepSpeedConfigError as error:
        path = spec.parallel.deepspeed_config
        problems.append(SpecProblem(field="parallel.deepspeed_config", message=str(error), value=path))
    return problems


def _recipe_named(name: Any) -> recipes.Recipe:
    if not isinstance(name, str):
        raise SpecError([SpecProblem(field="recipe", message=f"must be a recipe's name, got {name!r}", value=name)])
    if name not in recipes.RECIPES:
        known = ", ".join(sorted(recipes.RECIPES))
        message = f"there is no recipe {name!r}.{near(name, list(recipes.RECIPES))} Recipes: {known}"
        raise SpecError([SpecProblem(field="recipe", message=message, value=name)])
    return recipes.RECIPES[name]


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if key == "model" and isinstance(value, str):
            value = {"name": value}
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name" if key == "model" else "path": old}  # what a plain string is short for
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _chooses_another(key, old, value):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _chooses_another(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` is of another kind than `old`, whose fields then no longer apply."""
    kind_field = "name" if section == "objective" else "format"
    return kind_field in new and old.get(kind_field, new[kind_field]) != new[kind_field]


def _parse_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path:
        message = f"{override!r} is not of the form path.to.field=value"
        raise SpecError([SpecProblem(field="set", message=message, value=override)])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError([SpecProblem(field=path, message=f"{text!r} is not valid YAML", value=text)]) from None
    *parents, last = path.split(".")
    nested: dict[str, Any] = {last: _number(value) if isinstance(value, str) else value}
    for key in reversed(parents):
        nested = {key: nested}
    return nested


def _number(text: str) -> str | float:
    """YAML 1.1 reads `1e-5` as text; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _name_model(merged: dict[str, Any], registered_models: Mapping[str, str]) -> None:
    model = merged.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if isinstance(name, str) and name in registered_models:
        rest = model if isinstance(model, dict) else {}
        merged["model"] = {**rest, "name": f"local-dir:{registered_models[name]}"}


def _problem(error: Mapping[str, Any]) -> SpecProblem:
    loc = [str(part) for part in error["loc"]]
    field = ".".join(part for part in loc if part not in _union_tags())
    message = _IN_YAML.get(error["type"], error["msg"])
    if error["type"] == "union_tag_invalid":
        kind, given, known_kinds = (error["ctx"][key] for key in ("discriminator", "tag", "expected_tags"))
        message = f"Input should be one of {known_kinds}, got {given!r}"
        return SpecProblem(field=f"{field}.{kind.strip(chr(39))}", message=message, value=given)
    if error["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1])
        message = f"there is no such field.{near(loc[-1], known)} Allowed: {', '.join(known)}"
    elif error["type"] not in ("missing", "impossible"):
        message = f"{message}, got {error['input']!r}"
    return SpecProblem(field=field, message=message, value=error.get("input"))


def _union_tags() -> set[str]:
    return {"contrastive", "class_prompts", "classification", "distillation", "image_folder", "csv"}


def _fields_at(loc: Sequence[str]) -> list[str]:
    """Names allowed below a location in the spec, for the message about an unknown one."""
    section: Any = JobSpec
    for part in loc:
        candidates = _sections_in(section)
        fields = getattr(section, "model_fields", {})
        if part in fields:
            section = fields[part].annotation
        elif part in _union_tags():
            section = next((c for c in candidates if _tag(c) == part), section)
        if not hasattr(section, "model_fields") and len(_sections_in(section)) == 1:
            section = _sections_in(section)[0]
    return sorted(getattr(section, "model_fields", {}))


def _tag(section: Any) -> str | None:
    for name in _KIND_FIELDS:
        if name in section.model_fields and isinstance(section.model_fields[name].default, str):
            return str(section.model_fields[name].default)
    return None


def _sections_in(annotation: Any) -> list[Any]:
    """The model classes inside an annotation such as `Annotated[A | B, ...] | None` or `dict[str, A]`."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
