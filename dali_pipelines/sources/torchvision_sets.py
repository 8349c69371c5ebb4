"""Data sets as torchvision keeps them, read by torchvision's own classes. Nothing is downloaded.

https://docs.pytorch.org/vision/stable/datasets.html
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_pipelines.packs import PackedSample, write_shards
from dali_pipelines.sources import webdataset
from dali_pipelines.sources.matching_files import confine
from dali_pipelines.sources.samples import DataError, Samples, existing_folder
from dali_pipelines.storage import Cache

_WITHOUT_SPLITS = ("Caltech101", "EuroSAT", "SUN397")
_TRAINING_SPLIT = {"FGVCAircraft": "trainval", "OxfordIIITPet": "trainval"}  # as the papers train on them
_ARRAYS = ("CIFAR10", "CIFAR100", "MNIST", "PCAM", "STL10")
_BY_FLAG = ("CIFAR10", "CIFAR100", "MNIST")  # their classes take `train` and no split
_LAYOUTS = {
    "CIFAR10": "cifar-10-batches-py/data_batch_1 ...",
    "CIFAR100": "cifar-100-python/train, test, meta",
    "Caltech101": "caltech101/101_ObjectCategories/CLASS/image_0001.jpg",
    "Country211": "country211/SPLIT/CLASS/*.jpg",
    "DTD": "dtd/dtd/images and dtd/dtd/labels",
    "EuroSAT": "eurosat/2750/CLASS/*.jpg",
    "FGVCAircraft": "fgvc-aircraft-2013b/data",
    "Flowers102": "flowers-102/jpg, flowers-102/imagelabels.mat and flowers-102/setid.mat",
    "Food101": "food-101/images and food-101/meta",
    "GTSRB": "gtsrb/GTSRB/Training, gtsrb/GTSRB/Final_Test/Images and gtsrb/GT-final_test.csv",
    "ImageNet": "SPLIT/WNID/*.JPEG",
    "MNIST": "MNIST/raw/train-images-idx3-ubyte ...",
    "OxfordIIITPet": "oxford-iiit-pet/images and oxford-iiit-pet/annotations",
    "PCAM": "pcam/camelyonpatch_level_2_split_train_x.h5 ...",
    "RenderedSST2": "rendered-sst2/SPLIT/CLASS/*.png",
    "STL10": "stl10_binary/train_X.bin ...",
    "SUN397": "SUN397/ClassName.txt and SUN397/LETTER/CLASS/sun_*.jpg",
    "StanfordCars": "stanford_cars/cars_train, stanford_cars/cars_test and stanford_cars/devkit",
}
"""What lies in the folder, by the name of torchvision's class."""


def read(path: str | os.PathLike[str], *, name: str, split: str | None = None, cache: Cache) -> Samples:
    """List a split of a data set. Sets that are arrays and not image files are packed once into the cache, as PNG.

    Args:
        path: torchvision's `root`.
        split: None takes the training split (`trainval` where the set has one); all of a set without splits.

    Raises:
        DataError: the data set is not there, or has no such split.
    """
    root = existing_folder(path, "path")
    if name in _WITHOUT_SPLITS and split is not None:
        raise DataError("split", f"{name} has no splits, and split is {split!r}; leave it out")
    split = split or _TRAINING_SPLIT.get(name, "train")
    if name in _ARRAYS:
        return _packed(root, name, split, cache)
    found = _FILES[name](_opened(root, name, split))
    if not found.files:
        raise DataError("path", f"{name} in {str(root)!r} has no image; it must hold {_LAYOUTS[name]}")
    _stay_below(root, name, found.files)
    paths = [os.path.relpath(file, root) for file in found.files]
    return Samples(root, paths, [int(label) for label in found.labels], class_names=tuple(found.class_names))


def _stay_below(root: Path, name: str, files: Sequence[str | Path]) -> None:
    """The lists in a data set's folder may name its own files alone; links of whole folders are the owner's.

    Raises:
        DataError: one names another.
    """
    for file in files:
        if os.path.relpath(file, root).split(os.sep)[0] == os.pardir:
            raise DataError("path", f"a list of {name} names {os.fspath(file)!r}, which lies outside {str(root)!r}")
    confine(files)


def _opened(root: Path, name: str, split: str) -> Any:
    """torchvision's data set.

    Raises:
        DataError: there is none.
    """
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        if name == "ImageNet":  # its own class would unpack archives
            return datasets.ImageFolder(str(root / _one_of(split, ("train", "val"), name)))
        if name == "Caltech101" and not (root / "caltech101").is_dir():  # which its own class would make
            raise FileNotFoundError("there is no folder caltech101")
        if name in _WITHOUT_SPLITS:
            return kind(str(root), download=False)
        if name in _BY_FLAG:
            return kind(str(root), train=_one_of(split, ("train", "test"), name) == "train", download=False)
        return kind(str(root), split=split, download=False)
    except DataError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        if str(error).startswith("Unknown value"):  # followed by the splits that there are
            raise DataError("split", f"{name}: {error}") from None
        told = str(error).strip().split(". You can use", maxsplit=1)[0]
        message = f"{str(root)!r} holds no {name} that torchvision can read; it must hold {_LAYOUTS[name]}"
        raise DataError("path", f"{message} ({told})") from None


def _one_of(split: str, splits: tuple[str, ...], name: str) -> str:
    if split not in splits:
        raise DataError("split", f"{name} has the splits {', '.join(splits)}; split is {split!r}")
    return split


@dataclass(frozen=True)
class _Found:
    files: Sequence[str | Path]
    labels: Sequence[int]
    class_names: Sequence[str]


def _listed(dataset: Any) -> _Found:
    """Of sets that keep a list of files and one of labels."""
    return _Found(dataset._image_files, dataset._labels, dataset.classes)


def _paired(dataset: Any) -> _Found:
    """Of sets that keep pairs of a file and its label."""
    pairs = getattr(dataset, "samples", None) or dataset._samples
    return _Found([file for file, _ in pairs], [label for _, label in pairs], dataset.classes)


def _signs(dataset: Any) -> _Found:
    """The traffic signs have no names but numbers."""
    numbers = [label for _, label in dataset._samples]
    return _Found([file for file, _ in dataset._samples], numbers, [str(number) for number in range(43)])


def _pets(dataset: Any) -> _Found:
    return _Found(dataset._images, dataset._labels, dataset.classes)


def _scenes(dataset: Any) -> _Found:
    """torchvision takes them as the file system lists them, which differs from one to the next."""
    pairs = sorted(zip(dataset._image_files, dataset._labels, strict=True))
    return _Found([file for file, _ in pairs], [label for _, label in pairs], dataset.classes)


def _caltech(dataset: Any) -> _Found:
    """Files are numbered from 1 in each class."""
    folder = Path(dataset.root) / "101_ObjectCategories"
    names = [dataset.categories[label] for label in dataset.y]
    files = [folder / name / f"image_{number:04d}.jpg" for name, number in zip(names, dataset.index, strict=True)]
    return _Found(files, dataset.y, dataset.categories)


_FILES: dict[str, Callable[[Any], _Found]] = {
    "Caltech101": _caltech,
    "Country211": _paired,
    "DTD": _listed,
    "EuroSAT": _paired,
    "FGVCAircraft": _listed,
    "Flowers102": _listed,
    "Food101": _listed,
    "GTSRB": _signs,
    "ImageNet": _paired,
    "OxfordIIITPet": _pets,
    "RenderedSST2": _paired,
    "SUN397": _scenes,
    "StanfordCars": _paired,
}
"""What to take from torchvision's data set; the others are arrays."""


def _packed(root: Path, name: str, split: str, cache: Cache) -> Samples:
    """An array set as shards of PNG files in the cache."""

    def fill(folder: Path) -> None:
        dataset = _opened(root, name, split)
        names = [str(word) for word in getattr(dataset, "classes", ("0", "1"))]  # of all these only PCAM has no words
        write_shards(folder, _as_png(dataset, names), class_names=names)

    folder = cache.folder(f"torchvision {name} {split} {_fingerprint(root / _LAYOUTS[name].split('/')[0])}", fill)
    return webdataset.read(folder, cache=cache)


def _as_png(dataset: Any, names: Sequence[str]) -> Iterator[PackedSample]:
    for number in range(len(dataset)):
        image, label = dataset[number]
        encoded = io.BytesIO()
        image.save(encoded, "PNG", compress_level=1)
        word = None if label is None or label < 0 else names[int(label)]
        yield PackedSample(f"{number:07d}", encoded.getvalue(), label=word)


def _fingerprint(folder: Path) -> str:
    """Changes when a file below the folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
