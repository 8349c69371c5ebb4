"""torchvision's data sets, in small folders of their real layouts."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from dali_pipelines.sources import torchvision_sets
from dali_pipelines.sources.samples import DataError
from dali_pipelines.storage import Location, read_bytes


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def food101(root: Path) -> None:
    write(root / "food-101/meta/test.json", json.dumps({"sushi": ["sushi/2", "sushi/1"], "apple_pie": ["apple_pie/3"]}))
    touch(root, "food-101/images/sushi/1.jpg")


def dtd(root: Path) -> None:
    write(root / "dtd/dtd/labels/val1.txt", "dotted/a.jpg\nbanded/b.jpg\n")
    touch(root, "dtd/dtd/images/dotted/a.jpg")


def fgvc(root: Path) -> None:
    write(root / "fgvc-aircraft-2013b/data/variants.txt", "707-320\nA300B4\n")
    write(root / "fgvc-aircraft-2013b/data/images_variant_trainval.txt", "0001 A300B4\n0002 707-320\n")


def cars(root: Path) -> None:
    devkit = root / "stanford_cars/devkit"
    devkit.mkdir(parents=True)
    rows = np.array([("00001.jpg", 2), ("00002.jpg", 1)], dtype=[("fname", object), ("class", object)])
    scipy.io.savemat(devkit / "cars_train_annos.mat", {"annotations": rows})
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    scipy.io.savemat(devkit / "cars_meta.mat", {"class_names": names})
    (root / "stanford_cars/cars_train").mkdir()


def pets(root: Path) -> None:
    write(root / "oxford-iiit-pet/annotations/trainval.txt", "Abyssinian_1 1 1 1\namerican_bulldog_7 2 2 1\n")
    touch(root, "oxford-iiit-pet/images/Abyssinian_1.jpg")


def signs(root: Path) -> None:
    write(root / "gtsrb/GT-final_test.csv", "Filename;Width;ClassId\n00000.ppm;53;16\n00001.ppm;42;1\n")
    touch(root, "gtsrb/GTSRB/Final_Test/Images/00000.ppm")


def countries(root: Path) -> None:
    touch(root, "country211/valid/AD/1.jpg", "country211/valid/AE/2.jpg")


def sentences(root: Path) -> None:
    touch(root, "rendered-sst2/valid/negative/1.png", "rendered-sst2/valid/positive/2.png")


def eurosat(root: Path) -> None:
    touch(root, "eurosat/2750/AnnualCrop/AnnualCrop_1.jpg", "eurosat/2750/Forest/Forest_1.jpg")


def scenes(root: Path) -> None:
    write(root / "SUN397/ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    touch(root, "SUN397/a/abbey/sun_b.jpg", "SUN397/a/apartment_building/outdoor/sun_a.jpg", "SUN397/a/abbey/sun_a.jpg")


def caltech(root: Path) -> None:
    top = "caltech101/101_ObjectCategories"
    touch(root, f"{top}/ant/image_0001.jpg", f"{top}/ant/image_0002.jpg", f"{top}/yak/image_0001.jpg")
    touch(root, f"{top}/BACKGROUND_Google/image_0001.jpg")


def imagenet(root: Path) -> None:
    touch(root, "val/n01440764/a.JPEG", "val/n01443537/b.JPEG")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str | None, list[str], list[int], tuple[str, ...]]] = {
    "Food101": (
        food101,
        "test",
        [f"food-101/images/{name}.jpg" for name in ("sushi/2", "sushi/1", "apple_pie/3")],
        [1, 1, 0],
        ("apple_pie", "sushi"),
    ),
    "DTD": (dtd, "val", ["dtd/dtd/images/dotted/a.jpg", "dtd/dtd/images/banded/b.jpg"], [1, 0], ("banded", "dotted")),
    "FGVCAircraft": (
        fgvc,
        None,
        [f"fgvc-aircraft-2013b/data/images/{name}.jpg" for name in ("0001", "0002")],
        [1, 0],
        ("707-320", "A300B4"),
    ),
    "StanfordCars": (
        cars,
        None,
        [f"stanford_cars/cars_train/{name}.jpg" for name in ("00001", "00002")],
        [1, 0],
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    ),
    "OxfordIIITPet": (
        pets,
        None,
        [f"oxford-iiit-pet/images/{name}.jpg" for name in ("Abyssinian_1", "american_bulldog_7")],
        [0, 1],
        ("Abyssinian", "American Bulldog"),
    ),
    "GTSRB": (
        signs,
        "test",
        [f"gtsrb/GTSRB/Final_Test/Images/{name}.ppm" for name in ("00000", "00001")],
        [16, 1],
        tuple(str(number) for number in range(43)),
    ),
    "Country211": (
        countries,
        "valid",
        ["country211/valid/AD/1.jpg", "country211/valid/AE/2.jpg"],
        [0, 1],
        ("AD", "AE"),
    ),
    "RenderedSST2": (
        sentences,
        "val",
        ["rendered-sst2/valid/negative/1.png", "rendered-sst2/valid/positive/2.png"],
        [0, 1],
        ("negative", "positive"),
    ),
    "EuroSAT": (
        eurosat,
        None,
        ["eurosat/2750/AnnualCrop/AnnualCrop_1.jpg", "eurosat/2750/Forest/Forest_1.jpg"],
        [0, 1],
        ("AnnualCrop", "Forest"),
    ),
    "SUN397": (
        scenes,
        None,
        ["SUN397/a/abbey/sun_a.jpg", "SUN397/a/abbey/sun_b.jpg", "SUN397/a/apartment_building/outdoor/sun_a.jpg"],
        [0, 0, 1],
        ("abbey", "apartment_building/outdoor"),
    ),
    "Caltech101": (
        caltech,
        None,
        [
            f"caltech101/101_ObjectCategories/{name}.jpg"
            for name in ("ant/image_0001", "ant/image_0002", "yak/image_0001")
        ],
        [0, 0, 1],
        ("ant", "yak"),
    ),
    "ImageNet": (
        imagenet,
        "val",
        ["val/n01440764/a.JPEG", "val/n01443537/b.JPEG"],
        [0, 1],
        ("n01440764", "n01443537"),
    ),
}


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


@pytest.mark.parametrize("name", LAYOUTS)
def test_image_files_are_listed_where_they_lie(name, tmp_path, cache):
    make, split, paths, labels, class_names = LAYOUTS[name]
    make(tmp_path)
    samples = torchvision_sets.read(tmp_path, name=name, split=split, cache=cache)
    assert (list(samples.paths), list(samples.labels)) == (paths, labels)
    assert samples.class_names == class_names
    assert samples.root == tmp_path.resolve()


def test_flowers_are_numbered_by_their_tables(tmp_path, cache, monkeypatch):
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [1, 102, 5]})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [3, 1], "valid": [2], "tstid": [2]})
    (folder / "jpg").mkdir()
    known = dict(datasets.Flowers102._file_dict)
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        known[key] = (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
    with fails("path", "holds no Flowers102", "flowers-102/jpg"):  # other tables than the real ones
        torchvision_sets.read(tmp_path, name="Flowers102", cache=cache)
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", known)
    samples = torchvision_sets.read(tmp_path, name="Flowers102", cache=cache)
    assert samples.paths == ["flowers-102/jpg/image_00003.jpg", "flowers-102/jpg/image_00001.jpg"]
    assert samples.labels == [4, 0]
    assert samples.class_names[:2] == ("pink primrose", "hard-leaved pocket orchid")


@pytest.mark.parametrize("name", torchvision_sets._LAYOUTS)
def test_what_is_not_there_is_told_with_the_layout(name, tmp_path, cache):
    with fails("path", f"holds no {name} that torchvision can read", "must hold") as raised:
        torchvision_sets.read(tmp_path, name=name, cache=cache)
    assert torchvision_sets._LAYOUTS[name] in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_splits_name_those_there_are(tmp_path, cache):
    food101(tmp_path)
    for name, words in (("Food101", "train.*test"), ("CIFAR10", "train, test"), ("ImageNet", "train, val")):
        with fails("split", name, words):
            torchvision_sets.read(tmp_path, name=name, split="validation", cache=cache)
    with fails("split", "EuroSAT has no splits"):
        torchvision_sets.read(tmp_path, name="EuroSAT", split="test", cache=cache)


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> np.ndarray:
    """CIFAR-10 with 10 images in each of its six files, and its own checksums; the images of the test file."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    chance = np.random.default_rng(0)
    names = {"label_names": ["airplane", *"bcdefghij"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        images = chance.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": list(range(9, -1, -1))}))

    def known(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        files = [[name, known(name)] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, files)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": known("batches.meta")})
    return images.reshape(10, 3, 32, 32).transpose(0, 2, 3, 1)


def pixels(samples, row: int, cache) -> np.ndarray:
    location = Location(f"{samples.root}/{samples.paths[row]}", samples.offsets[row], samples.lengths[row])
    return np.asarray(Image.open(io.BytesIO(read_bytes(location, cache))))


def test_arrays_are_packed_once_and_keep_their_pixels(tmp_path, cifar, cache, monkeypatch):
    samples = torchvision_sets.read(tmp_path, name="CIFAR10", split="test", cache=cache)
    assert samples.class_names == ("airplane", *"bcdefghij")
    assert list(samples.labels) == list(range(9, -1, -1))
    for row in range(10):
        assert (pixels(samples, row, cache) == cifar[row]).all()
    assert len(torchvision_sets.read(tmp_path, name="CIFAR10", cache=cache)) == 50
    monkeypatch.setattr(torchvision_sets, "write_shards", None)
    again = torchvision_sets.read(tmp_path, name="CIFAR10", split="test", cache=cache)
    assert (list(again.paths), list(again.offsets)) == (list(samples.paths), list(samples.offsets))


def test_unlabelled_images_have_no_class(tmp_path, cache, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
        (folder / name).write_bytes(
            np.random.default_rng(1).integers(0, 256, 2 * 3 * 96 * 96, dtype=np.uint8).tobytes()
        )
    for name in ("train_y.bin", "test_y.bin"):
        (folder / name).write_bytes(bytes([2, 10]))
    write(folder / "class_names.txt", "\n".join("abcdefghij"))
    write(folder / "fold_indices.txt", "0 1\n")
    for attribute in ("train_list", "test_list"):
        files = [
            [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]
            for name, _ in getattr(datasets.STL10, attribute)
        ]
        monkeypatch.setattr(datasets.STL10, attribute, files)
    labelled = torchvision_sets.read(tmp_path, name="STL10", split="test", cache=cache)
    assert list(labelled.labels) == [1, 9]
    unlabelled = torchvision_sets.read(tmp_path, name="STL10", split="unlabeled", cache=cache)
    assert unlabelled.labels is None or set(unlabelled.labels) == {-1}


def test_lists_name_nothing_outside_the_folder(tmp_path, cache):
    root = tmp_path / "ours/root"
    for folder in (root / "food-101/meta", root / "food-101/images", tmp_path / "secret"):
        folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret/p0.jpg")
    for split in ("train", "test"):
        (root / f"food-101/meta/{split}.json").write_text(json.dumps({"c": ["../../../../../secret/p0"]}))
    with fails("path", "outside"):
        torchvision_sets.read(root, name="Food101", split="train", cache=cache)
