"""Images in one folder a class: `path/CLASS/**/IMAGE`."""

from __future__ import annotations

import os

from dali_pipelines.sources.folders import ImageTree, no_images
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache


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
    return f"folder {str(tree.root)!r} is empty: it holds no class folders"
