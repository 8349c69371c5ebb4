"""Images in folders of domains, each with a folder a class: `path/DOMAIN/CLASS/**/IMAGE`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dali_pipelines.sources.folders import ImageTree, no_images
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache


def read(path: str | os.PathLike[str], *, domains: Sequence[str] | None = None, cache: Cache) -> Samples:
    """List the images of all domains, domain after domain and each in path order; classes are united by name.

    Args:
        domains: the ones to take, in this order; None takes all by name.

    Raises:
        DataError: a domain is named that is not there, or there are no class folders or no images.
    """
    tree = ImageTree(path)
    chosen = _chosen(tree, domains)
    folders = {domain: tree.folders(domain) for domain in chosen}
    for domain, inside in folders.items():
        if not inside:
            message = f"domain {domain!r} of {str(tree.root)!r} holds no class folders: images lie in DOMAIN/CLASS/"
            raise DataError("path", message)
    class_names = tuple(sorted({name for inside in folders.values() for name in inside}))
    numbers = {name: number for number, name in enumerate(class_names)}
    paths: list[str] = []
    labels: list[int] = []
    domain_numbers: list[int] = []
    for domain_number, (domain, inside) in enumerate(folders.items()):
        for name in inside:
            found = tree.images(f"{domain}/{name}")
            paths += found
            labels += [numbers[name]] * len(found)
            domain_numbers += [domain_number] * len(found)
    if not paths:
        raise no_images(tree.root, [f"{domain}/{name}" for domain, inside in folders.items() for name in inside])
    return Samples(tree.root, paths, labels, class_names=class_names, domains=domain_numbers, domain_names=chosen)


def _chosen(tree: ImageTree, wanted: Sequence[str] | None) -> tuple[str, ...]:
    there = tree.folders()
    if not there:
        raise DataError("path", f"folder {str(tree.root)!r} holds no folders of domains")
    if wanted is None:
        return tuple(there)
    strangers = [name for name in wanted if name not in there]
    if strangers:
        message = f"domains has {strangers[0]!r}, but there is no such folder in {str(tree.root)!r}"
        raise DataError("domains", f"{message}; there are: {', '.join(there[:10])}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise DataError("domains", f"domains is {list(wanted)}; name one or more, each once")
    return tuple(wanted)
