"""Prompt templates for class names. Imports no torch: a spec's templates are checked where it is submitted.

`prompt_sets.json` holds published sets: `imagenet` (80) and `imagenet-simple` (7) and `cifar10` (18), all from
OpenAI's CLIP (https://github.com/openai/CLIP, notebooks and data/prompts.md).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path


@functools.cache
def published_sets() -> dict[str, tuple[str, ...]]:
    """The published template sets, by name."""
    text = Path(__file__).with_name("prompt_sets.json").read_text(encoding="utf-8")
    return {name: tuple(templates) for name, templates in json.loads(text).items()}


def expand_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Replace the name of a published set by its templates.

    Raises:
        ValueError: there is no template, or one has not exactly one `{}` and is not the name of a set.
    """
    if not templates:
        raise ValueError("give at least one template")
    expanded: list[str] = []
    for template in templates:
        if template in published_sets():
            expanded += published_sets()[template]
        elif template.count("{}") == 1 and not set(template.replace("{}", "")) & set("{}"):
            expanded.append(template)
        else:
            known = ", ".join(sorted(published_sets()))
            raise ValueError(
                f"template {template!r} needs exactly one {{}} for the class name, or the name of a set: {known}"
            )
    return tuple(expanded)
