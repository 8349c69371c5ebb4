"""What every source returns: samples by name, before any image has been opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dali_pipelines.manifest import NO_LABEL

IMAGE_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])


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

    root: Path
    """Folder that the paths are relative to."""
    paths: Sequence[str]
    """Relative path of each image."""
    labels: Sequence[int] | None = None
    """Label of each image, or None."""
    captions: Sequence[Sequence[str]] | None = None
    """Captions of each image, or None."""
    class_names: tuple[str, ...] = field(default=())
    """Names by label, as they read in a prompt."""

    def __len__(self) -> int:
        return len(self.paths)

    def class_counts(self) -> dict[str, int]:
        """Images by class name; classes without images count 0."""
        counts = [0] * len(self.class_names)
        for label in self.labels or ():
            if label != NO_LABEL:
                counts[label] += 1
        return dict(zip(self.class_names, counts, strict=True))


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
