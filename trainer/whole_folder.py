"""Write a folder so that others see it whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes its name once all is on the disk.

    A file system cannot swap two folders in one portable step: between the two renames there is no `folder`, and if
    the second one fails the old one returns.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _sync(partial)
        _take_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left beside `folder`; one killed between its renames gets its name back."""
    for old in folder.parent.glob(f".{folder.name}.*.old"):
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for partial in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(partial)


def _take_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
