"""Validation decodes every image, names each bad one, and records what the loaders need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dali_pipelines.sources import image_folder
from dali_pipelines.sources.samples import Samples
from dali_pipelines.storage import Cache
from dali_pipelines.validation import BadSamplesError, validate


@pytest.fixture
def damaged(tmp_path, folder) -> Path:
    """The folder with a truncated file, a text file, an empty file and a class of which nothing is left."""
    root = tmp_path / "images"
    shutil.copytree(folder, root)
    file = root / "dog/01.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    (root / "dog/text.jpg").write_text("this is no image")
    (root / "dog/void.png").touch()
    (root / "yak").mkdir()
    (root / "yak/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    return root


def test_good_images_become_a_manifest(folder):
    samples = image_folder.read(folder, cache=Cache.open())
    manifest, report = validate(samples, num_threads=2)
    assert manifest.paths == list(samples.paths)
    assert manifest.labels.tolist() == list(samples.labels)
    for path, size in zip(manifest.paths, manifest.sizes.tolist(), strict=True):
        assert Image.open(folder / path).size == tuple(size)
    assert manifest.table["decoder"].to_pylist() == ["pillow" if p.endswith("gif") else "dali" for p in manifest.paths]
    assert report.num_samples == 25
    assert report.num_classes == 3
    assert report.class_counts == {"big_cat": 9, "dog": 8, "zebra": 8}
    assert report.bad == []
    assert report.empty_classes == []


def test_the_manifest_does_not_depend_on_the_threads(folder):
    samples = image_folder.read(folder, cache=Cache.open())
    assert validate(samples, num_threads=1)[0].hash == validate(samples, num_threads=4)[0].hash


def test_bad_images_refuse_the_data_by_name(damaged):
    with pytest.raises(BadSamplesError) as raised:
        validate(image_folder.read(damaged, cache=Cache.open()))
    message = str(raised.value)
    assert "4 of 28 images cannot be decoded" in message
    for words in (
        "dog/01.jpg (",
        "dog/text.jpg (not an image",
        "dog/void.png",
        "yak/broken.png",
    ):
        assert words in message
    assert "on_bad_sample" in message
    assert raised.value.field == "path"
    assert len(raised.value.report.bad) == 4


def test_bad_images_can_be_left_out(damaged):
    manifest, report = validate(image_folder.read(damaged, cache=Cache.open()), on_bad_sample="skip", num_threads=2)
    assert len(manifest) == 24
    assert [path for path, _ in report.bad] == ["dog/01.jpg", "dog/text.jpg", "dog/void.png", "yak/broken.png"]
    assert not {path for path, _ in report.bad} & set(manifest.paths)
    assert report.class_counts == {"big_cat": 9, "dog": 7, "yak": 0, "zebra": 8}
    assert report.empty_classes == ["yak"]
    assert json.loads(json.dumps(report.to_dict()))["num_samples"] == 24


def test_nothing_but_bad_images_is_refused_even_when_skipping(damaged):
    with pytest.raises(BadSamplesError, match="1 of 1 images cannot be decoded: yak/broken.png"):
        validate(Samples(damaged, ["yak/broken.png"]), on_bad_sample="skip")


def test_missing_files_are_bad_samples(folder):
    _, report = validate(Samples(folder, ["gone.jpg", "dog/01.jpg"]), on_bad_sample="skip")
    assert report.bad == [("gone.jpg", "the file does not exist")]


def test_captions_stay_with_their_images(damaged):
    samples = Samples(damaged, ["dog/text.jpg", "dog/04.jpg"], captions=[["no"], ["yes", "indeed"]])
    manifest, report = validate(samples, on_bad_sample="skip")
    assert manifest.captions(0) == ["yes", "indeed"]
    assert report.num_captions == 2
    assert report.num_classes == 0
    assert manifest.labels.tolist() == [-1]


def test_a_good_image_of_the_same_class_stands_in_for_a_bad_one(damaged):
    samples = image_folder.read(damaged, cache=Cache.open())
    manifest, report = validate(samples, on_bad_sample="replace", num_threads=2)
    assert len(manifest) == len(samples) == 28
    assert (report.num_replaced, len(report.bad)) == (4, 4)
    rows = [row for row, path in enumerate(samples.paths) if path.startswith("dog/")]
    assert all(manifest.paths[row].startswith("dog/") for row in rows)
    assert not {path for path, _ in report.bad} & set(manifest.paths)
    kept = [row for row, path in enumerate(samples.paths) if path not in dict(report.bad)]
    assert [manifest.paths[row] for row in kept] == [samples.paths[row] for row in kept]
    again, _ = validate(samples, on_bad_sample="replace", num_threads=4)
    assert again.hash == manifest.hash
    assert validate(samples, on_bad_sample="replace", seed=1)[0].hash != manifest.hash
