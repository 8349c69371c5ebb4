"""Karpathy's splits JSON (`dataset_coco.json`, `dataset_flickr8k.json`, ...): `images` with `split` and `sentences`.

https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from typing import Any

from dali_pipelines.sources.image_paths import Locator, folder_of_images, found_folder, require_one_image
from dali_pipelines.sources.json_files import caption, entry, read_lists
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache

_OPTIONAL = "restval"  # only COCO has it, and the default split names it for COCO's sake
_FOLDERS = ("images", "Images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset")


def read(
    path: str | os.PathLike[str],
    *,
    split: Sequence[str] = ("train", "restval"),
    images_root: str | os.PathLike[str] | None = None,
    cache: Cache,
) -> Samples:
    """List the images of some splits with all their captions, in the file's order.

    Args:
        split: the splits to take; `restval` may be missing from the file.
        images_root: folder of `FILEPATH/FILENAME`; None finds it: the JSON's folder, the one above, or one in these
            that goes by a usual name.

    Raises:
        DataError: a split is named that is not there, an image has no caption, or no image is there.
    """
    listed = read_lists(path, ("images",), cache=cache)["images"]
    chosen = _of_splits(listed, tuple(split), path)
    names = [_name(item, path) for item in chosen]
    folders = [".", *_FOLDERS, "..", *(f"../{folder}" for folder in _FOLDERS)]
    root = folder_of_images(path, images_root) if images_root else found_folder(path, folders, image=names[0])
    locate = Locator(root, field="path")
    paths = [locate(name, f"image {number}") for number, name in enumerate(names)]
    require_one_image(root, paths, table=path)
    return Samples(root, paths, captions=[_captions(item, name) for item, name in zip(chosen, names, strict=True)])


def _of_splits(
    listed: list[dict[str, Any]], wanted: tuple[str, ...], path: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    there = list(dict.fromkeys(entry(item, "split", str, f"an image of {os.fspath(path)!r}") for item in listed))
    strangers = [name for name in wanted if name not in there and name != _OPTIONAL]
    chosen = [item for item in listed if item["split"] in wanted]
    if strangers or not chosen:
        message = f"split is {', '.join(wanted)}; the splits of {os.fspath(path)!r} are {', '.join(there) or 'none'}"
        raise DataError("split", message)
    return chosen


def _name(item: dict[str, Any], path: str | os.PathLike[str]) -> str:
    place = f"an image of {os.fspath(path)!r}"
    folder = entry(item, "filepath", str, place) if "filepath" in item else ""
    return posixpath.join(folder, entry(item, "filename", str, place))


def _captions(item: dict[str, Any], name: str) -> list[str]:
    sentences = entry(item, "sentences", list, f"image {name!r}")
    if not sentences:
        raise DataError("path", f"image {name!r} has no caption")
    place = f"a caption of image {name!r}"
    return [caption(entry(sentence, "raw", str, place), place) for sentence in sentences]
