"""A text file with an image and its class a line: mmpretrain's `PATH LABEL`, or ImageNet's `WNID/FILE`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.sources.image_paths import Locator, folder_of_images, local_table, require_one_image
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.samples import IMAGE_EXTENSIONS, DataError, Samples
from dali_pipelines.storage import Cache

_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(IMAGE_EXTENSIONS))
_PATH_AND_LABEL = re.compile(rf"(?P<path>.*(?:{_EXTENSIONS}))(?:\s+(?P<label>\S.*))?", re.IGNORECASE)
_LAST_FIELD = re.compile(r"(?P<path>\S.*?)(?:\s+(?P<label>\S+))?")


def read(path: str | os.PathLike[str], *, images_root: str | os.PathLike[str] | None = None, cache: Cache) -> Samples:
    """List the images of a file, in its order.

    What follows the image's extension is the label, so both may have spaces; of a name without a known extension the
    last field is. Labels that are all numbers keep their order, and every number up to the largest is a class.

    Args:
        images_root: folder that image paths are relative to; None takes the list's own.

    Raises:
        DataError: naming the line.
    """
    lines = _lines(path, local_table(path, cache=cache))
    root = folder_of_images(path, images_root)
    locate = Locator(root, field="path")
    paths = [locate(line.path, f"line {line.number}") for line in lines]
    require_one_image(root, paths, table=path)
    _require_one_label(lines)
    words = [line.label for line in lines] if lines[0].label is not None else _folders(lines)
    labels, class_names = numbered(words, field="path")
    return Samples(root, paths, labels, class_names=class_names)


@dataclass(frozen=True)
class _Line:
    number: int
    path: str
    label: str | None


def _lines(path: str | os.PathLike[str], file: Path) -> list[_Line]:
    try:
        lines = list(_parsed(file.read_text(encoding="utf-8-sig")))
    except UnicodeDecodeError as error:
        message = f"{os.fspath(path)!r} is not utf-8 text ({error.reason} at byte {error.start})"
        raise DataError("path", message) from None
    except OSError as error:
        raise DataError("path", f"{os.fspath(path)!r} cannot be read: {error.strerror}") from None
    if not lines:
        raise DataError("path", f"{os.fspath(path)!r} names no image")
    for line in lines:
        if (line.label is None) != (lines[0].label is None):
            has, others = ("no", "one") if line.label is None else ("a", "none")
            where = f"line {line.number} of {os.fspath(path)!r} has {has} label"
            message = f"{where}, and line {lines[0].number} has {others}; give every line a label, or none"
            raise DataError("path", message)
    return lines


def _parsed(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped:
            found = _PATH_AND_LABEL.fullmatch(stripped) or _LAST_FIELD.fullmatch(stripped)
            assert found is not None, "every line has a first word"
            yield _Line(number, found["path"].rstrip(), found["label"])


def _require_one_label(lines: Sequence[_Line]) -> None:
    first: dict[str, _Line] = {}
    for line in lines:
        before = first.setdefault(line.path, line)
        if before.label != line.label:
            told = f"{before.label!r} on line {before.number} and {line.label!r} on line {line.number}"
            raise DataError("path", f"image {line.path!r} is {told}; an image has one label")


def _folders(lines: Sequence[_Line]) -> list[str]:
    """The first folder of each path in which they differ; the last one if they all lie in the same."""
    parts = [line.path.split("/")[:-1] for line in lines]
    for line, folders in zip(lines, parts, strict=True):
        if not folders:
            message = f"line {line.number} has neither a label nor a folder that could be the class: {line.path!r}"
            raise DataError("path", message)
    depth = min(len(os.path.commonprefix(parts)), min(map(len, parts)) - 1)
    return [folders[depth] for folders in parts]
