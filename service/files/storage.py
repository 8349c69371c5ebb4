"""Where uploaded bytes lie.

    FILES/PROJECT/file-.../content/NAME        the file as it came
    FILES/PROJECT/file-.../unpacked/           what was in it, if it is an archive
    FILES/PROJECT/upload_.../part_...          parts that wait for the rest

A file is received and unpacked under a hidden name and published by one rename, so that what has the public name is
whole.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.store.records import FileRecord

_UNSAFE = re.compile(r"[^\w.-]+")
_MAX_NAME = 120


class FileStorage:
    """The folders of uploaded files and of uploads under way."""

    def __init__(self, root: Path) -> None:
        """`root` holds a folder a project; it is made on first use."""
        self.root = root

    def folder(self, id: str, *, project: str) -> Path:
        """The folder of a file or an upload."""
        return self.root / project / id

    @contextmanager
    def receiving(self, id: str, *, project: str) -> Iterator[Path]:
        """A new hidden folder, for what will be published as `folder(id)`; gone again if the block raises."""
        partial = self.root / project / f".{id}"
        partial.mkdir(parents=True)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def publish(self, partial: Path) -> Path:
        """Give a hidden folder its public name, which it keeps through a power cut."""
        _sync_folder(partial)
        public = partial.rename(partial.with_name(partial.name.removeprefix(".")))
        _sync_folder(public.parent)
        return public

    def remove(self, id: str, *, project: str) -> None:
        """Remove the folder of a file or an upload: hidden first, so that nobody finds half of it."""
        folder = self.folder(id, project=project)
        hidden = folder.with_name(f".{id}.removed")
        if folder.exists():
            folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def remove_leftovers(self, *, older_than_s: float, is_known: Callable[[str], bool]) -> None:
        """Remove what a service left behind when it died while receiving or removing: hidden folders, and those of
        files and uploads that `is_known` does not know by their id."""
        for folder in self.root.glob("*/*"):
            if _age_s(folder) > older_than_s and (folder.name.startswith(".") or not is_known(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # it has just been published, or removed
        return 0.0


def content_path(folder: Path, filename: str) -> Path:
    """Where a file of this name lies in its folder: by a plain name that keeps the ending, which tells the format."""
    plain = _UNSAFE.sub("_", filename).encode()[-_MAX_NAME:].decode(errors="ignore").lstrip(".") or "file"
    return folder / "content" / plain


def data_path(file: FileRecord) -> Path:
    """What a job reads: the folder that an archive was unpacked to, or the file itself.

    An archive that holds a single folder and nothing beside it stands for that folder.
    """
    folder = unpacked_folder(Path(file.path))
    if not folder.is_dir():
        return Path(file.path)
    inside = list(folder.iterdir())
    inner = list(inside[0].iterdir()) if len(inside) == 1 and inside[0].is_dir() else []
    return inside[0] if any(entry.is_dir() for entry in inner) else folder


def unpacked_folder(content: Path) -> Path:
    """Where the archive at `content` is unpacked to."""
    return content.parent.with_name("unpacked")
