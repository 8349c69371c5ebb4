"""Paths of images that a table or list names: found below one folder, and nowhere else."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from dali_pipelines.sources.samples import DataError, existing_file, existing_folder
from dali_pipelines.storage import Cache, StorageError, is_url


def local_table(path: str | os.PathLike[str], *, cache: Cache) -> Path:
    """The file itself, or the local copy of a remote one.

    Raises:
        DataError: there is no such file.
    """
    if not is_url(os.fspath(path)):
        return existing_file(path)
    try:
        return cache.file(os.fspath(path))
    except StorageError as error:
        raise DataError("path", str(error)) from error


def folder_of_images(table: str | os.PathLike[str], images_root: str | os.PathLike[str] | None) -> Path | str:
    """The folder, or its URL, that the images of `table` are relative to: the given one, or the table's own.

    Raises:
        DataError: there is no such folder.
    """
    given = os.fspath(table if images_root is None else images_root)
    if is_url(given):
        return given.rpartition("/")[0] if images_root is None else given.rstrip("/")
    return Path(given).expanduser().parent.resolve() if images_root is None else existing_folder(given, "images_root")


def found_folder(table: str | os.PathLike[str], candidates: Sequence[str], *, image: str) -> Path | str:
    """The first of some folders, relative to the table's own, that holds an image.

    Raises:
        DataError: none does, or the table is remote, where looking for a folder costs too much.
    """
    if is_url(os.fspath(table)):
        raise DataError("images_root", f"images_root must name the folder of the images of {os.fspath(table)!r}")
    own = Path(table).expanduser().parent.resolve()
    for folder in candidates:
        if (own / folder / image).is_file():
            return (own / folder).resolve()
    looked = ", ".join(repr(os.path.normpath(own / folder)) for folder in candidates)
    raise DataError("images_root", f"image {image!r} is in none of {looked}; name its folder with images_root")


def require_one_image(root: Path | str, paths: Iterable[str], *, table: str | os.PathLike[str]) -> None:
    """Refuse a local folder in which none of the images is. Remote ones are not asked after here.

    Raises:
        DataError: naming the first image.
    """
    paths = list(paths)
    if isinstance(root, Path) and not any(os.path.isfile(root / path) for path in paths):
        message = f"none of the images of {os.fspath(table)!r} is in {str(root)!r}, such as {paths[0]!r}"
        raise DataError("images_root", message)


class Locator:
    """Finds image files below a root, and refuses names and links that lead out of it."""

    def __init__(self, root: Path | str, *, field: str) -> None:
        """
        Args:
            field: the source's field to blame for a name that leads out.
        """
        self._root, self._field = root, field
        self._folders: dict[str, str] = {}  # resolved, by folder as written: most tables have few

    def __call__(self, name: str, place: str) -> str:
        """The path relative to the root; `place` says in errors where the name stands."""
        path = self._remote(name) if isinstance(self._root, str) else self._local(name, self._root)
        if path is None:
            message = f"{place}: image path {name!r} leads outside the folder {str(self._root)!r}"
            raise DataError(self._field, message)
        return path

    def _remote(self, name: str) -> str | None:
        path = posixpath.normpath(name)
        outside = is_url(name) or path.startswith(("/", "..")) or path == "."
        return None if outside else path

    def _local(self, name: str, root: Path) -> str | None:
        written = os.path.join(root, name)
        folder, base = os.path.split(written)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        resolved = os.path.join(self._folders[folder], base)
        if os.path.islink(resolved) or base in ("", ".", ".."):
            resolved = os.path.realpath(resolved)
        return os.path.relpath(resolved, root) if resolved.startswith(f"{root}{os.sep}") else None
