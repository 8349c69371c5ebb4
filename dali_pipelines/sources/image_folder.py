"""Images in one folder a class: `path/CLASS/**/IMAGE`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from dali_pipelines.sources.samples import IMAGE_EXTENSIONS, DataError, Samples, existing_folder
from dali_pipelines.storage import Cache


def read(path: str | os.PathLike[str], *, cache: Cache) -> Samples:
    """List the images of a folder, in path order; hidden files and folders do not count.

    A class folder without images stays a class with no sample, so that labels do not depend on which images are there.

    Raises:
        DataError: there is no such folder, or it has no class folders or no images.
    """
    root = existing_folder(path, "path")
    folders = _class_folders(root)
    if not folders:
        raise DataError("path", _no_class_folders(root))
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = _images_below(root, folder)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError("path", _no_images(root, folders))
    return Samples(root, paths, labels, class_names=tuple(folders))


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


def _no_class_folders(root: Path) -> str:
    if any(_is_image_name(name) for name in os.listdir(root)):
        return f"folder {str(root)!r} holds images but no class folders; put the images of each class into a folder"
    return f"folder {str(root)!r} is empty: it holds no class folders"


def _no_images(root: Path, folders: list[str]) -> str:
    allowed = " ".join(sorted(IMAGE_EXTENSIONS))
    named = ", ".join(folders[:10]) + (f" and {len(folders) - 10} more" if len(folders) > 10 else "")
    return f"no image in the {len(folders)} class folders of {str(root)!r} ({named}); looked for {allowed}"
