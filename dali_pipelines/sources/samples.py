"""What every source returns: samples by name, before any image has been opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from dali_pipelines.manifest import NO_LABEL

IMAGE_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])

Item = TypeVar("Item")


class DataError(ValueError):
    """Something is wrong with the user's data.

    Attributes:
        field: the source's field to blame, such as `path` or `caption_column`.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True)
class Samples:
    """Samples that a source lists, in their order; `dali_pipelines.validation.validate` turns them into a manifest."""

    root: Path | str
    """Folder that the paths are relative to, or the URL of one."""
    paths: Sequence[str]
    """Relative path of the file that holds each image."""
    labels: Sequence[int] | None = None
    """Label of each image, -1 for none; or None."""
    captions: Sequence[Sequence[str]] | None = None
    """Captions of each image, or None."""
    class_names: tuple[str, ...] = ()
    """Names by label: the data's own words, until `dali_pipelines.selection.select` gives them the user's."""
    domains: Sequence[int] | None = None
    """Domain of each image, as its place in `domain_names`, -1 for none; or None."""
    domain_names: tuple[str, ...] = ()
    """Names of the domains."""
    offsets: Sequence[int] | None = None
    """First byte of each image within its file, or None where every file is one image."""
    lengths: Sequence[int] | None = None
    """Number of bytes of each image; goes with `offsets`."""
    keys: Sequence[str] | None = None
    """What each sample is called in reports, such as `a.tar/0001.jpg`; None: its path."""

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, row: int) -> str:
        """What a sample is called in reports."""
        return self.paths[row] if self.keys is None else self.keys[row]

    def class_counts(self) -> dict[str, int]:
        """Images by class name; classes without images count 0."""
        return _counts(self.labels, self.class_names)

    def domain_counts(self) -> dict[str, int]:
        """Images by domain."""
        return _counts(self.domains, self.domain_names)

    def select(self, rows: Sequence[int] | np.ndarray) -> Samples:
        """The given rows, in the given order, with the same classes and domains."""
        return replace(
            self,
            paths=_taken(self.paths, rows),
            labels=_taken(self.labels, rows),
            captions=_taken(self.captions, rows),
            domains=_taken(self.domains, rows),
            offsets=_taken(self.offsets, rows),
            lengths=_taken(self.lengths, rows),
            keys=_taken(self.keys, rows),
        )


def require_several_classes(samples: Samples, field: str) -> None:
    """Refuse labelled data with images of fewer than two classes, from which no classifier can be trained.

    Raises:
        DataError: naming the one class.
    """
    filled = [name for name, count in samples.class_counts().items() if count]
    if len(filled) < 2:
        found = f"only one class with images, {filled[0]!r}" if filled else "no class with images"
        raise DataError(
            field, f"there is {found} in {str(samples.root)!r}; at least two are needed to train on classes"
        )


def exists(path: Path, field: str) -> bool:
    """Whether there is something at `path`.

    Raises:
        DataError: nobody may look there.
    """
    try:
        return path.exists()
    except OSError as error:
        raise DataError(field, f"{str(path)!r} cannot be read: {error.strerror}") from None


def existing_folder(path: str | os.PathLike[str], field: str) -> Path:
    """The folder as an absolute path.

    Raises:
        DataError: it does not exist or is something else.
    """
    folder = Path(path).expanduser()
    if not exists(folder, field):
        raise DataError(field, f"folder {str(folder)!r} does not exist")
    if not folder.is_dir():
        raise DataError(field, f"{str(folder)!r} is a file, not a folder")
    return folder.resolve()


def existing_file(path: str | os.PathLike[str], field: str = "path") -> Path:
    """The file's path with `~` written out.

    Raises:
        DataError: it does not exist or is a folder.
    """
    file = Path(path).expanduser()
    if not exists(file, field):
        raise DataError(field, f"file {str(file)!r} does not exist")
    if file.is_dir():
        raise DataError(field, f"{str(file)!r} is a folder, not a file")
    return file


def _counts(numbers: Sequence[int] | None, names: tuple[str, ...]) -> dict[str, int]:
    there = np.asarray([] if numbers is None else numbers, np.int64)
    counts = np.bincount(there[there != NO_LABEL], minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _taken(items: Sequence[Item] | None, rows: Sequence[int] | np.ndarray) -> list[Item] | None:
    return None if items is None else [items[int(row)] for row in rows]
