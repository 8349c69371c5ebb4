"""The images below a folder, local or remote, by the folders they lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dali_pipelines.sources.samples import IMAGE_EXTENSIONS, DataError, existing_folder
from dali_pipelines.storage import StorageError, is_url, list_files


class ImageTree:
    """What lies below one folder; hidden files and folders do not count."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        Raises:
            DataError: there is no such folder.
        """
        self._remote: list[str] | None = None
        self.root: Path | str
        if is_url(os.fspath(path)):
            self.root = os.fspath(path).rstrip("/")
            self._remote = _listed(self.root)
        else:
            self.root = existing_folder(path, "path")

    def folders(self, within: str = "") -> list[str]:
        """Names of the folders in a folder, sorted. A remote folder without a file in it is not seen."""
        if self._remote is None:
            return _local_folders(os.path.join(self.root, within))
        start = f"{within}/" if within else ""
        below = (path[len(start) :] for path in self._remote if path.startswith(start))
        return sorted({path.partition("/")[0] for path in below if "/" in path})

    def images(self, folder: str) -> list[str]:
        """Relative paths of the images below a folder, sorted. Links to folders are followed, each folder once."""
        if self._remote is None:
            return _local_images(Path(self.root), folder)
        return [path for path in self._remote if path.startswith(f"{folder}/") and is_image_name(path)]

    def has_loose_images(self) -> bool:
        """Whether images lie in the folder itself."""
        names = os.listdir(self.root) if self._remote is None else self._remote
        return any(is_image_name(name) for name in names if "/" not in name)


def is_image_name(path: str) -> bool:
    """Whether a file's name is that of an image."""
    name = path.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def no_images(root: Path | str, folders: Sequence[str]) -> DataError:
    """The complaint that there is no image in any of the folders."""
    allowed = " ".join(sorted(IMAGE_EXTENSIONS))
    named = ", ".join(folders[:10]) + (f" and {len(folders) - 10} more" if len(folders) > 10 else "")
    message = f"no image in the {len(folders)} class folders of {str(root)!r} ({named}); looked for {allowed}"
    return DataError("path", message)


def _listed(url: str) -> list[str]:
    try:
        return list_files(url)
    except StorageError as error:
        raise DataError("path", str(error)) from error


def _local_folders(place: str) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        _unreadable(error)


def _local_images(root: Path, folder: str) -> list[str]:
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
        found += [f"{relative}/{name}" for name in files if is_image_name(name)]
    for path in found:
        if not path.isprintable() and path != path.encode(errors="replace").decode():
            raise DataError("path", f"the file name {path!r} in {str(root)!r} is not valid UTF-8; rename the file")
    return sorted(found)


def _unreadable(error: OSError) -> NoReturn:
    raise DataError("path", f"folder {error.filename!r} cannot be read: {error.strerror}")
