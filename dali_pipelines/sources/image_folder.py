"""Images in one folder a class: `path/CLASS/**/IMAGE`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from dali_pipelines.sources.samples import (
    IMAGE_EXTENSIONS,
    DataError,
    Samples,
    existing_folder,
    require_several_classes,
)


def read(
    path: str | os.PathLike[str],
    *,
    class_names: Mapping[str, str] | None = None,
    limit_per_class: int | None = None,
    offset_per_class: int = 0,
    several_classes: bool = False,
) -> Samples:
    """List the images of a folder, in path order; hidden files and folders do not count.

    A class folder without images stays a class with no sample, so that labels do not depend on which images are there.

    Args:
        class_names: name to use in prompts, by folder; other folders go by their own name, underscores as spaces.
        limit_per_class: take only so many images of each class.
        offset_per_class: after passing over so many.
        several_classes: refuse data with images of fewer than two classes.

    Raises:
        DataError: there is no such folder, it has no class folders or no images, or `class_names` names another.
    """
    root = existing_folder(path, "path")
    folders = _class_folders(root)
    if not folders:
        raise DataError("path", _no_class_folders(root))
    names = _prompt_names(folders, class_names or {})
    end = None if limit_per_class is None else offset_per_class + limit_per_class
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        chosen = _images_below(root, folder)[offset_per_class:end]
        paths += chosen
        labels += [label] * len(chosen)
    samples = Samples(root, paths, labels, class_names=names)
    if not paths:
        raise DataError("path", _no_images(root, folders, offset_per_class))
    if several_classes:
        require_several_classes(samples, "path")
    return samples


def _class_folders(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        _unreadable(error)


def _images_below(root: Path, folder: str) -> list[str]:
    """Relative paths, sorted. Links to folders are followed, each folder once."""
    found: list[str] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(root / folder, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(place, root)
        found += [f"{relative}/{name}" for name in files if _is_image_name(name)]
    for path in found:
        if not path.isprintable() and path != path.encode(errors="replace").decode():
            raise DataError("path", f"the file name {path!r} in {str(root)!r} is not valid UTF-8; rename the file")
    return sorted(found)


def _unreadable(error: OSError) -> NoReturn:
    raise DataError("path", f"folder {error.filename!r} cannot be read: {error.strerror}")


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _prompt_names(folders: list[str], class_names: Mapping[str, str]) -> tuple[str, ...]:
    for name in class_names:
        if name not in folders:
            near = difflib.get_close_matches(name, folders, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {_some(folders)}"
            raise DataError("class_names", f"class_names has {name!r}, but there is no such class folder; {hint}")
    names = tuple(class_names.get(folder, folder.replace("_", " ")) for folder in folders)
    for number, name in enumerate(names):
        if name in names[:number]:
            both = f"{folders[names.index(name)]!r} and {folders[number]!r}"
            raise DataError("class_names", f"the class folders {both} would both be called {name!r}; name one of them")
    return names


def _no_class_folders(root: Path) -> str:
    if any(_is_image_name(name) for name in os.listdir(root)):
        return f"folder {str(root)!r} holds images but no class folders; put the images of each class into a folder"
    return f"folder {str(root)!r} is empty: it holds no class folders"


def _no_images(root: Path, folders: list[str], offset: int) -> str:
    allowed = " ".join(sorted(IMAGE_EXTENSIONS))
    after = f" after the first {offset} of each class" if offset else ""
    return (
        f"no image{after} in the {len(folders)} class folders of {str(root)!r} ({_some(folders)}); looked for {allowed}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
