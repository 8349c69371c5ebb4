"""What the raw values of a spec point at: paths, URLs, local models and those of a hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.prompts import published_class_names

PATH_FIELDS = frozenset({"path", "images_root", "deepspeed_config", "nvme_path"})
"""Fields of a spec that always name a file or a folder, wherever they stand."""
LOCAL_MODEL = "local-dir:"
HUB_MODEL = "hf-hub:"
_DATA_FIELD = re.compile(r"data\.(train|validation|evaluate\.[^.]+)(\.\d+|\.sources\.\d+)?")


@dataclass(frozen=True)
class Place:
    """A value in a spec that points somewhere."""

    field: str
    value: str
    """As it was given."""
    target: str
    """The path or URL in it."""


def places_in(spec: Mapping[str, Any]) -> Iterator[Place]:
    """Every path and URL that a raw spec names: all fields of `PATH_FIELDS`, bare data sources, files of class names,
    and local models."""
    for field, value in texts({name: value for name, value in spec.items() if name != "metadata"}):
        last = field.rpartition(".")[2]
        if value.startswith(HUB_MODEL) and (
            "/../" in f"{value}/" or value.startswith((HUB_MODEL + "/", HUB_MODEL + "."))
        ):
            yield Place(field, value, value.removeprefix(HUB_MODEL))
        elif value.startswith("timm/") and ".." in value.split("/"):
            yield Place(field, value, value)
        elif value.startswith(LOCAL_MODEL):
            yield Place(field, value, value.removeprefix(LOCAL_MODEL))
        elif (
            last in PATH_FIELDS
            or _DATA_FIELD.fullmatch(field)
            or last == "class_names"
            and value not in published_class_names()
        ):
            yield Place(field, value, value)


def texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text in JSON values, and its dotted path before it."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for index, inner in enumerate(value):
            yield from texts(inner, f"{field}.{index}")
