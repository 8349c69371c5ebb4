"""COCO's captions JSON (2014 and 2017): `images`, and `annotations` with `image_id` and `caption`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from dali_pipelines.sources.image_paths import Locator, folder_of_images, found_folder, require_one_image
from dali_pipelines.sources.json_files import caption, entry, read_lists
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache

_NUM_NAMED = 3


def read(path: str | os.PathLike[str], *, images_root: str | os.PathLike[str] | None = None, cache: Cache) -> Samples:
    """List the images with all their captions, in the file's order.

    Args:
        images_root: None finds it: for `annotations/captions_train2017.json` a folder `train2017`, `images` or both in
            each other, beside the JSON or one folder up, or the JSON's own.

    Raises:
        DataError: an image has no caption, a caption no image, or no image is there.
    """
    lists = read_lists(path, ("images", "annotations"), cache=cache)
    names = _file_names(lists["images"], path)
    captions: dict[int | str, list[str]] = {key: [] for key in names}
    for item in lists["annotations"]:
        place = f"annotation {item.get('id', '(without id)')} of {os.fspath(path)!r}"
        key = entry(item, "image_id", (int, str), place)
        if key not in captions:
            raise DataError("path", f"{place} is of image {key}, which is not among its images")
        captions[key].append(caption(entry(item, "caption", str, place), place))
    _require_captions(names, captions, path)
    first = next(iter(names.values()))
    root = folder_of_images(path, images_root) if images_root else found_folder(path, _folders(path), image=first)
    locate = Locator(root, field="path")
    paths = [locate(name, f"image {key}") for key, name in names.items()]
    require_one_image(root, paths, table=path)
    return Samples(root, paths, captions=list(captions.values()))


def _file_names(images: list[dict[str, Any]], path: str | os.PathLike[str]) -> dict[int | str, str]:
    names: dict[int | str, str] = {}
    for item in images:
        place = f"an image of {os.fspath(path)!r}"
        key = entry(item, "id", (int, str), place)
        if key in names:
            raise DataError("path", f"{os.fspath(path)!r} lists image {key} twice")
        names[key] = entry(item, "file_name", str, place)
    if not names:
        raise DataError("path", f"{os.fspath(path)!r} lists no image")
    return names


def _require_captions(
    names: dict[int | str, str], captions: dict[int | str, list[str]], path: str | os.PathLike[str]
) -> None:
    without = [names[key] for key, own in captions.items() if not own]
    if without:
        more = f" and {len(without) - _NUM_NAMED} more" if len(without) > _NUM_NAMED else ""
        named = ", ".join(without[:_NUM_NAMED]) + more
        message = f"{len(without)} of the {len(names)} images of {os.fspath(path)!r} have no caption: {named}"
        raise DataError("path", message)


def _folders(path: str | os.PathLike[str]) -> list[str]:
    """Where the images may be: the word of the split is the last of the JSON's name, such as `train2017`."""
    word = re.split(r"[_.]", Path(path).name.removesuffix(".json"))[-1]
    inner = (word, f"images/{word}", "images")
    return [*inner, *(f"../{folder}" for folder in inner), "."]
