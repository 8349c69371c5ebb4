"""Prompt templates for class names. Imports no torch: a spec's templates are checked where it is submitted.

`prompt_sets.json` holds published sets by name: OpenAI's for the 27 data sets of CLIP's paper
(https://github.com/openai/CLIP, data/prompts.md and notebooks), FLYP's where it has its own, and the transfer-learning
demo's. `ALIASES` are the names that other systems have for them. `class_names.json` holds OpenAI's class names for the
same 27 data sets, in the order of their labels; of a class with several names the first.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Sequence
from pathlib import Path

ALIASES = {
    "flyp-imagenet": "imagenet",
    "flyp-caltech101": "caltech101",
    "flyp-cars": "stanford-cars",
    "flyp-country211": "country211",
    "flyp-eurosat": "eurosat",
    "flyp-flowers102": "flowers102",
    "flyp-hateful-memes": "hateful-memes",
    "flyp-pcam": "patch-camelyon",
    "flyp-sst2": "sst2",
    "flyp-sun397": "sun397",
    "openai_imagenet": "imagenet",
    "openai_imagenet_sub": "imagenet-simple",
    "openai_cifar100": "cifar100",
    "vanilla": "plain",
}
"""Sets of FLYP and (with underscores) mmpretrain that are the same as others, by their names there."""


@functools.cache
def published_sets() -> dict[str, tuple[str, ...]]:
    """The published template sets, by name and by alias."""
    text = Path(__file__).with_name("prompt_sets.json").read_text(encoding="utf-8")
    sets = {name: tuple(templates) for name, templates in json.loads(text).items()}
    return sets | {alias: sets[name] for alias, name in ALIASES.items()}


@functools.cache
def published_class_names() -> dict[str, tuple[str, ...]]:
    """The published class names, by data set, in the order of its labels."""
    text = Path(__file__).with_name("class_names.json").read_text(encoding="utf-8")
    return {name: tuple(classes) for name, classes in json.loads(text).items()}


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
            near = difflib.get_close_matches(template, sorted(published_sets()), n=2)
            meant = f"Did you mean {' or '.join(near)}?" if near else "`attune prompts list` names the sets"
            raise ValueError(
                f"template {template!r} needs exactly one {{}} for the class name, or is the name of a set. {meant}"
            )
    return tuple(expanded)
