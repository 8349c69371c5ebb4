"""Data sets in other formats: read again they are the same samples and bytes, and train on the same pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dali_pipelines.conversion import TARGETS, convert
from dali_pipelines.loader import TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.sources import READERS, DataError, Samples, csv_table, domains, image_folder
from dali_pipelines.sources.samples import IMAGE_EXTENSIONS
from dali_pipelines.transforms import Augment, Preprocess
from dali_pipelines.validation import validate


def read(source: dict[str, Any], cache) -> Samples:
    fields = {name: value for name, value in source.items() if name != "format"}
    return READERS[source["format"]](**fields, cache=cache)


def image(number: int) -> bytes:
    encoded = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(encoded, ("PNG", "JPEG", "GIF")[number % 3])
    return encoded.getvalue()


@pytest.fixture
def full(tmp_path) -> Samples:
    """Twelve samples with several captions, a class and a domain each; one class is empty."""
    root = tmp_path / "full"
    root.mkdir()
    for number in range(12):
        (root / f"{number}.bin").write_bytes(image(number))
    return Samples(
        root,
        [f"{number}.bin" for number in range(12)],
        [number % 2 for number in range(12)],
        [[f"number {number}", 'a "quoted", text', "多"][: 1 + number % 3] for number in range(12)],
        ("fire engine", "naïve", "empty"),
        [number % 2 for number in range(12)],
        ("photo", "sketch"),
    )


@pytest.mark.parametrize("to", [target for target in TARGETS if target != "image_folder"])
def test_what_is_read_again_is_the_same(tmp_path, cache, contents, full, to):
    told: list[tuple[int, int]] = []
    options = {"to": to, "cache": cache, "progress": lambda done, total: told.append((done, total))}
    source = convert(full, tmp_path / "to", **options, shard_bytes=1000)
    assert told[-1] == (12, 12)
    assert sorted(told) == told
    again = read(source, cache)
    assert contents(again) == contents(full)
    assert again.domain_names == full.domain_names
    assert again.class_names == (full.class_names if to != "csv" else ("fire engine", "naïve"))  # a row a class


@pytest.mark.parametrize("with_domains", [False, True])
def test_class_folders_hold_every_class(tmp_path, cache, contents, full, with_domains):
    files = Samples(full.root, full.paths, full.labels, None, full.class_names)
    if with_domains:
        files = Samples(full.root, full.paths, full.labels, None, full.class_names, full.domains, full.domain_names)
    source = convert(files, tmp_path / "to", to="image_folder", cache=cache)
    again = read(source, cache)
    assert source["format"] == ("domains" if with_domains else "image_folder")
    assert sorted(contents(again)) == sorted(contents(files))
    assert again.class_names == (("fire engine", "naïve") if with_domains else ("empty", "fire engine", "naïve"))
    endings = {Path(path).suffix for path in again.paths}
    assert endings == {".png", ".jpg", ".gif"} < IMAGE_EXTENSIONS


def test_a_table_can_leave_the_images_where_they_are(tmp_path, cache, contents, full):
    source = convert(full, tmp_path / "to", to="csv", cache=cache, copy_images=False)
    again = read(source, cache)
    assert contents(again) == contents(full)
    assert (str(again.root), again.paths) == (str(full.root), full.paths)
    assert not (tmp_path / "to" / "images").exists()


def test_a_manifest_of_several_roots_is_converted_without_its_bad_samples(tmp_path, cache, contents, full, folder):
    (full.root / "3.bin").write_bytes(b"damaged")
    one = validate(full, on_bad_sample="skip")[0]
    other = validate(image_folder.read(folder, cache=cache))[0]
    both = Manifest.concatenate([one, other])
    again = read(convert(both, tmp_path / "to", to="parquet", cache=cache), cache)
    assert len(again) == len(both) == 11 + 25
    assert again.class_names == both.class_names
    assert again.labels == both.labels.tolist()
    assert contents(again)[3][0] == image(4)
    assert again.captions[0] == both.captions(0)


@pytest.mark.parametrize("to", ["webdataset", "csv", "parquet"])
def test_an_interrupted_conversion_goes_on(tmp_path, cache, contents, full, to, monkeypatch):
    monkeypatch.setattr("dali_pipelines.conversion.files._NOTED_EVERY", 2)
    monkeypatch.setattr("dali_pipelines.conversion.tables.GROUP_BYTES", 500)
    told: list[int] = []

    def stop(done: int, total: int) -> None:
        told.append(done)
        if done == 8:
            raise KeyboardInterrupt

    options = {"to": to, "cache": cache, "shard_bytes": 2000}
    with pytest.raises(KeyboardInterrupt):
        convert(full, tmp_path / "to", **options, progress=stop)
    told.clear()
    source = convert(full, tmp_path / "to", **options, progress=stop_at_nothing(told))
    assert 1 < told[0] <= 9
    assert contents(read(source, cache)) == contents(full)
    told.clear()
    assert convert(full, tmp_path / "to", **options, progress=stop_at_nothing(told)) == source
    assert not told
    other = full.select(range(5))
    with pytest.raises(DataError, match="holds a conversion of other samples"):
        convert(other, tmp_path / "to", **options)
    assert not [path for path in (tmp_path / "to").rglob("*") if path.name.endswith((".partial", ".new"))]


def test_a_part_that_appeared_just_before_the_end_is_not_written_twice(tmp_path, cache, contents, full, monkeypatch):
    monkeypatch.setattr("dali_pipelines.conversion.tables.GROUP_BYTES", 500)
    options = {"to": "parquet", "cache": cache, "shard_bytes": 2000}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("dali_pipelines.conversion.record.Record.note", die)
        with pytest.raises(KeyboardInterrupt):
            convert(full, tmp_path / "to", **options)
    source = convert(full, tmp_path / "to", **options)
    assert contents(read(source, cache)) == contents(full)


def test_a_repaired_image_makes_it_other_samples(tmp_path, cache, full):
    convert(full, tmp_path / "to", to="webdataset", cache=cache)
    (full.root / "5.bin").write_bytes(image(6))
    with pytest.raises(DataError, match="holds a conversion of other samples"):
        convert(full, tmp_path / "to", to="webdataset", cache=cache)


def stop_at_nothing(told: list[int]):
    return lambda done, total: told.append(done)


@pytest.mark.parametrize(
    ("changes", "to", "words"),
    [
        ({"captions": None, "class_names": (), "labels": None}, "image_folder", "the data have no classes"),
        ({}, "image_folder", "cannot hold captions"),
        ({"captions": None, "class_names": ("a/b", "c")}, "image_folder", "no folder can be called 'a/b'"),
        ({"captions": None, "class_names": ("..", "c")}, "image_folder", r"no folder can be called '\.\.'"),
        ({"captions": None, "class_names": ("x" * 256, "c")}, "image_folder", "no folder can be called 'xxx"),
        ({"captions": None, "labels": [0, -1]}, "image_folder", "sample '1.bin' has no class"),
        ({"captions": [["a"], []]}, "csv", "sample '1.bin' has no captions, as others have; parquet can hold that"),
        ({}, "zip", "there is no target 'zip'; there are webdataset, image_folder, csv, parquet"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path, cache, full, changes, to, words):
    fields = {"labels": [0, 1], "captions": [["a"], ["b"]], "class_names": ("c", "d"), **changes}
    with pytest.raises(DataError, match=words, check=lambda error: error.field == "to"):
        convert(Samples(full.root, full.paths[:2], **fields), tmp_path / "to", to=to, cache=cache)
    assert not (tmp_path / "to").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, cache, full):
    with pytest.raises(DataError, match="is not empty", check=lambda error: error.field == "folder"):
        convert(full, full.root, to="csv", cache=cache)
    with pytest.raises(DataError, match="only csv can leave them where they are"):
        convert(full, tmp_path / "to", to="parquet", copy_images=False, cache=cache)
    (full.root / "5.bin").unlink()
    with pytest.raises(DataError, match="image '5.bin' cannot be read"):
        convert(full, tmp_path / "to", to="parquet", cache=cache)


def test_class_folders_of_the_data_cannot_lead_out(tmp_path, cache, full):
    cells = {"image": pa.array([image(0), image(1)]), "label": ["../../escaped", "fine"]}
    pq.write_table(pa.table(cells), tmp_path / "a.parquet")
    samples = READERS["parquet"](tmp_path / "a.parquet", cache=cache)
    with pytest.raises(DataError, match="no folder can be called"):
        convert(samples, tmp_path / "deep" / "to", to="image_folder", cache=cache)
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("to", TARGETS)
def test_training_sees_the_same_pixels_in_the_same_order(tmp_path, cache, folder, to):
    files = image_folder.read(folder, cache=cache)
    expected = list(batches(files, cache))
    found = list(batches(read(convert(files, tmp_path / "to", to=to, cache=cache, shard_bytes=100_000), cache), cache))
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert one.labels.tolist() == other.labels.tolist()
        assert np.array_equal(one.images.numpy(), other.images.numpy())


def batches(samples: Samples, cache):
    manifest = validate(samples)[0]
    loader = TrainLoader(
        manifest,
        preprocess=Preprocess(image_size=32),
        augment=Augment(),
        sampler=Sampler(len(manifest), seed=1),
        global_size=8,
        micro_size=8,
        num_threads=1,
        cache=cache,
    )
    iterator = iter(loader)
    yield from (next(iterator) for _ in range(4))
    loader.close()


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", ["pacs", "cifar10", "flickr8k", "coco_mini"])
def test_real_data_come_back_as_they_were(tmp_path, test_data, cache, contents, name, to):
    samples = {
        "pacs": lambda: domains.read(test_data / "pacs", cache=cache),
        "cifar10": lambda: image_folder.read(test_data / "cifar10" / "test", cache=cache),
        "flickr8k": lambda: captioned(
            test_data / "flickr8k" / "captions.csv", test_data / "flickr8k" / "images", cache
        ),
        "coco_mini": lambda: captioned(test_data / "coco_mini" / "captions.csv", test_data / "coco_mini", cache),
    }[name]()
    if samples.captions is not None and to == "image_folder":
        pytest.skip("class folders hold no captions")
    again = read(convert(samples, tmp_path / "to", to=to, cache=cache, shard_bytes=8 << 20), cache)
    assert contents(again) == contents(samples)
    assert (again.class_names, again.domain_names) == (samples.class_names, samples.domain_names)


def captioned(table: Path, images: Path, cache) -> Samples:
    return csv_table.read(table, images_root=images, cache=cache)
