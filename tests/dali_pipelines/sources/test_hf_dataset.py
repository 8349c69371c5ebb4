"""Hugging Face's data sets on disk: written here as `save_to_disk` does, and by `datasets` itself if it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dali_pipelines.sources import hf_dataset, image_folder
from dali_pipelines.sources.samples import DataError

FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}


def fails(field: str, words: str):
    return pytest.raises(DataError, match="(?s)" + words, check=lambda error: error.field == field)


def save(
    folder: Path, rows: list[dict[str, Any]], *, features: dict[str, Any] = FEATURES, num_files: int = 1, **state: Any
) -> Path:
    """As `Dataset.save_to_disk` leaves it: Arrow streams, and a JSON file that names them."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{num_files:05d}.arrow" for number in range(num_files)]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    whole = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
    size = -(-len(rows) // num_files)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(whole.slice(number * size, size), max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"image": {"bytes": b"image %d" % number, "path": None}, "label": number % 2, **more}


def test_images_are_read_where_they_lie(tmp_path, cache, contents):
    folder = save(
        tmp_path / "set", [row(number, captions=["a", "b"][: number % 3]) for number in range(7)], num_files=3
    )
    samples = hf_dataset.read(folder, cache=cache)
    expected = [(b"image %d" % n, ["a", "b"][: n % 3], ("ant", "bee")[n % 2], None) for n in range(7)]
    assert contents(samples) == expected
    assert samples.root == str(folder)
    assert samples.keys[3] == "data-00001-of-00003.arrow/0"


def test_a_split_of_a_dictionary_is_chosen(tmp_path, cache, contents):
    save(tmp_path / "train", [row(0), row(1)], _split="train")
    save(tmp_path / "test", [row(2)], _split="test")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [found[0] for found in contents(hf_dataset.read(tmp_path, split="test", cache=cache))] == [b"image 2"]
    with fails("split", "holds the splits train, test; split must name one"):
        hf_dataset.read(tmp_path, cache=cache)
    with fails("split", "holds the splits train, test; split is 'val'"):
        hf_dataset.read(tmp_path, split="val", cache=cache)
    assert len(hf_dataset.read(tmp_path / "train", split="train", cache=cache)) == 2
    with fails("split", "split is 'test', and .*train' is the split 'train'"):
        hf_dataset.read(tmp_path / "train", split="test", cache=cache)


def test_images_kept_as_paths_are_plain_files(tmp_path, cache, contents):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(b"one")
    rows = [{"image": {"bytes": None, "path": str(tmp_path / "images" / "0.jpg")}, "label": 1}]
    folder = save(tmp_path / "set", rows)
    samples = hf_dataset.read(folder, images_root=tmp_path / "images", cache=cache)
    assert contents(samples) == [(b"one", [], "bee", None)]
    with fails("image_column", "leads outside the folder"):
        hf_dataset.read(folder, cache=cache)


def test_columns_are_found_by_type_or_named(tmp_path, cache, contents):
    features = {
        "picture": {"_type": "Image"},
        "fine": {"names": ["ant", "bee"], "_type": "ClassLabel"},
        "coarse": {"names": ["insect"], "_type": "ClassLabel"},
    }
    rows = [{"picture": {"bytes": b"x", "path": None}, "fine": 1, "coarse": 0, "alt": "a bee", "site": "north"}]
    folder = save(tmp_path / "set", rows, features=features)
    with fails("label_column", "columns fine, coarse are all of type ClassLabel; name one with label_column"):
        hf_dataset.read(folder, cache=cache)
    samples = hf_dataset.read(folder, label_column="fine", caption_column="alt", domain_column="site", cache=cache)
    assert contents(samples) == [(b"x", ["a bee"], "bee", "north")]


def test_what_is_no_data_set_is_refused(tmp_path, cache):
    with fails("path", "neither state.json nor dataset_dict.json"):
        hf_dataset.read(tmp_path, cache=cache)
    with fails("path", "does not exist"):
        hf_dataset.read(tmp_path / "nothing", cache=cache)
    with fails("path", "old version"):
        hf_dataset.read(save(tmp_path / "old", [row(0)], _indices_data_files=[{"filename": "x"}]), cache=cache)
    for number, name in enumerate(["../a.arrow", "/etc/passwd", "..", "", None]):
        folder = save(tmp_path / str(number), [row(0)], _data_files=[{"filename": name}])
        with fails("path", "is no name of a file"):
            hf_dataset.read(folder, cache=cache)
    with fails("image_column", "none of the columns 'n' is of type Image"):
        hf_dataset.read(save(tmp_path / "without", [{"n": 1}], features={}), cache=cache)
    (tmp_path / "state.json").write_text("{")
    with fails("path", "state.json cannot be read"):
        hf_dataset.read(tmp_path, cache=cache)


def test_what_the_library_itself_saves_is_read(tmp_path, folder, cache, contents):
    datasets = pytest.importorskip("datasets")
    files = image_folder.read(folder, cache=cache)
    names = list(files.class_names)
    columns = {
        "image": [str(folder / path) for path in files.paths],
        "label": files.labels,
        "captions": [[path, "a photo"] for path in files.paths],
    }
    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=names),
        "captions": datasets.Sequence(datasets.Value("string")),
    }
    whole = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    order = whole.shuffle(seed=0)
    datasets.DatasetDict({"train": order}).save_to_disk(tmp_path / "saved", num_shards={"train": 3})
    samples = hf_dataset.read(tmp_path / "saved", split="train", cache=cache)
    expected = [
        ((folder / given["captions"][0]).read_bytes(), given["captions"], names[given["label"]], None)
        for given in order.remove_columns("image")
    ]
    assert contents(samples) == expected
