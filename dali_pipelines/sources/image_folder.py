"""Images in one folder a class: `path/CLASS/**/IMAGE`."""

from __future__ import annotations

import os
from pathlib import Path

from dali_pipelines.sources.folders import ImageTree, no_images
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache, is_url

_OTHER_FORMATS = (
    ("*.tar", "webdataset"),
    ("*.parquet", "parquet"),
    ("*.feather", "parquet"),
    ("dataset_dict.json", "hf_dataset"),
    ("state.json", "hf_dataset"),
)


def read(path: str | os.PathLike[str], *, cache: Cache) -> Samples:
    """List the images of a folder, in path order; hidden files and folders do not count.

    A class folder without images stays a class with no sample, so that labels do not depend on which images are there.

    Raises:
        DataError: there is no such folder, or it has no class folders or no images.
    """
    tree = ImageTree(path)
    folders = tree.folders()
    if not folders:
        raise DataError("path", _no_class_folders(tree))
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = tree.images(folder)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise no_images(tree.root, folders)
    return Samples(tree.root, paths, labels, class_names=tuple(folders))


def _no_class_folders(tree: ImageTree) -> str:
    if tree.has_loose_images():
        return (
            f"folder {str(tree.root)!r} holds images but no class folders; put the images of each class into a folder"
        )
    if is_url(str(tree.root)) or not any(Path(tree.root).iterdir()):
        return f"folder {str(tree.root)!r} is empty: it holds no class folders"
    for pattern, name in _OTHER_FORMATS:
        if any(Path(tree.root).glob(pattern)):
            return f"folder {str(tree.root)!r} holds {pattern} and no class folders; give `format: {name}`"
    return f"folder {str(tree.root)!r} holds no class folders"
