"""JSON files of images and captions: read with a word for each way in which they can be wrong."""

from __future__ import annotations

import json
import os
from typing import Any

from dali_pipelines.sources.image_paths import local_table
from dali_pipelines.sources.samples import DataError
from dali_pipelines.storage import Cache


def read_lists(
    path: str | os.PathLike[str], names: tuple[str, ...], *, cache: Cache
) -> dict[str, list[dict[str, Any]]]:
    """The lists of objects of these names in a JSON file, local or remote.

    Raises:
        DataError: it cannot be read or is built otherwise.
    """
    shown = repr(os.fspath(path))
    try:
        content = json.loads(local_table(path, cache=cache).read_bytes())
    except OSError as error:
        raise DataError("path", f"{shown} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError("path", f"{shown} is not valid JSON: {error}") from None
    for name in names:
        listed = content.get(name) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            there = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise DataError("path", f"{shown} must have a list of objects called {name!r}; it has {there or 'nothing'}")
    return {name: content[name] for name in names}


def entry(item: dict[str, Any], name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """One value of an object.

    Raises:
        DataError: it is missing or of another kind.
    """
    if not isinstance(item.get(name), kind):
        raise DataError("path", f"{place} has no usable {name!r}: {json.dumps(item)[:200]}")
    return item[name]


def caption(text: str, place: str) -> str:
    """A caption without space around it.

    Raises:
        DataError: nothing is left.
    """
    if not text.strip():
        raise DataError("path", f"{place} is empty")
    return text.strip()
