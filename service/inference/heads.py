"""Class names and templates as callers send them, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.errors import InvalidRequest
from service.inference.protocol import Head
from service.settings import Settings
from trainer.prompts import expand_templates

DEFAULT_TEMPLATES = ("a photo of a {}.",)


def checked_head(class_names: Sequence[str], *, templates: Sequence[str] | None, settings: Settings) -> Head:
    """The zero-shot head for `class_names`; templates may name published sets, and default to one plain sentence.

    Raises:
        InvalidRequest: there is no class name, one is blank or comes twice, a template has not one `{}`, or there
            are more of either than the service takes.
    """
    names = tuple(name.strip() for name in class_names)
    _check_names(names, settings.max_classes)
    try:
        expanded = expand_templates(templates or DEFAULT_TEMPLATES)
    except ValueError as error:
        raise InvalidRequest(str(error), param="templates", code="invalid_template") from None
    _check_prompts(len(names), len(expanded), settings.max_prompts)
    return Head(names, expanded)


def _check_names(names: tuple[str, ...], max_classes: int) -> None:
    if not names:
        raise InvalidRequest("class_names is empty; name the classes to choose from", param="class_names")
    if len(names) > max_classes:
        message = f"class_names has {len(names):,} names; at most {max_classes:,} are allowed"
        raise InvalidRequest(message, param="class_names", code="too_many_classes")
    if "" in names:
        index = names.index("")
        raise InvalidRequest(f"class name {index} is blank", param=f"class_names.{index}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:5])) + (f" and {len(twice) - 5} more" if len(twice) > 5 else "")
        raise InvalidRequest(f"class_names has {shown} more than once; each class may come once", param="class_names")


def _check_prompts(num_classes: int, num_templates: int, max_prompts: int) -> None:
    if num_classes * num_templates > max_prompts:
        message = (
            f"{num_classes:,} classes with {num_templates:,} templates make {num_classes * num_templates:,} prompts; "
            f"at most {max_prompts:,} are allowed: use fewer templates, such as 'imagenet-simple'"
        )
        raise InvalidRequest(message, param="templates", code="too_many_prompts")
