"""Tables with images: bytes in place or packed, paths, columns of all types, and every mistake."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dali_pipelines.sources import arrow_files, parquet
from dali_pipelines.sources.samples import DataError
from dali_pipelines.storage import Cache
from dali_pipelines.validation import BadSamplesError, validate


def image(number: int) -> bytes:
    encoded = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(encoded, "PNG" if number % 2 else "JPEG")
    return encoded.getvalue()


IMAGES = [image(number) for number in range(6)]


def as_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def as_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


WRITERS: dict[str, tuple[Callable[[pa.Table, Path], None], bool]] = {
    "parquet": (pq.write_table, False),
    "stream.arrow": (as_stream, True),
    "file.arrow": (as_file, True),
    "lz4.feather": (lambda table, path: pyarrow.feather.write_feather(table, path, "lz4"), False),
    "feather": (lambda table, path: pyarrow.feather.write_feather(table, path, "uncompressed"), True),
}
"""How to write a table by the file's ending, and whether images are then read from the file itself."""


def fails(field: str, words: str):
    return pytest.raises(DataError, match="(?s)" + words, check=lambda error: error.field == field)


def table(**columns: object) -> pa.Table:
    return pa.table({"image": pa.array(IMAGES, pa.binary()), **columns})


@pytest.fixture
def written(tmp_path) -> Callable[..., Path]:
    def write(found: pa.Table | None = None, **columns: object) -> Path:
        path = tmp_path / "a.parquet"
        pq.write_table(table(**columns) if found is None else found, path)
        return path

    return write


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("column", ["binary", "large", "struct"])
def test_bytes_of_all_files_are_found(tmp_path, kind, column, contents):
    cells = {
        "binary": pa.array(IMAGES, pa.binary()),
        "large": pa.array(IMAGES, pa.large_binary()),
        "struct": pa.array([{"bytes": data, "path": "x.jpg"} for data in IMAGES]),
    }[column]
    write, in_place = WRITERS[kind]
    write(pa.table({"n": range(6), "image": cells, "caption": list("abcdef")}), tmp_path / f"a.{kind}")
    cache = Cache.open(str(tmp_path / "cache"))
    samples = parquet.read(tmp_path / f"a.{kind}", cache=cache)
    assert contents(samples) == [(data, [text], None, None) for data, text in zip(IMAGES, "abcdef", strict=True)]
    assert (samples.root == str(tmp_path)) == in_place
    assert (tmp_path / "cache").exists() == (not in_place)
    assert samples.keys[4] == f"a.{kind}/4"


def test_packed_images_are_packed_once(tmp_path, written, monkeypatch):
    cache, path = Cache.open(str(tmp_path / "cache")), written()
    first = parquet.read(path, cache=cache)
    monkeypatch.setattr("dali_pipelines.sources.table_images.write_shards", None)  # calling it would fail
    again = parquet.read(path, cache=Cache.open(str(tmp_path / "cache")))
    assert (again.root, again.paths, again.keys) == (first.root, first.paths, first.keys)
    assert [list(again.offsets), list(again.lengths)] == [list(first.offsets), list(first.lengths)]
    written(pa.table({"image": IMAGES[:2]}))
    with pytest.raises(TypeError):
        parquet.read(path, cache=cache)


def test_large_tables_are_read_a_batch_at_a_time(tmp_path, cache, monkeypatch, contents):
    monkeypatch.setattr(arrow_files, "_BATCH_ROWS", 2)
    seen = []
    batches = arrow_files.TableFile.batches

    def watched(self, columns):
        for batch in batches(self, columns):
            seen.append(len(batch))
            yield batch

    monkeypatch.setattr(arrow_files.TableFile, "batches", watched)
    pq.write_table(table(), tmp_path / "a.parquet")
    samples = parquet.read(tmp_path / "a.parquet", cache=cache)
    assert [found[0] for found in contents(samples)] == IMAGES
    assert set(seen) == {2}


@pytest.mark.parametrize("kind", ["parquet", "stream.arrow"])
def test_several_files_are_one_set_and_a_split_takes_some_rows(tmp_path, kind, cache, contents):
    columns = {
        "label": list("xyxyxy"),
        "part": ["train", "test", "train", None, "train", "test"],
        "site": [1, 1, 2] * 2,
    }
    whole = table(**columns)
    for number, first in enumerate((0, 3)):
        WRITERS[kind][0](whole.slice(first, 3), tmp_path / f"{number}.{kind}")
    options = {"split_column": "part", "split": "train", "domain_column": "site", "cache": cache}
    samples = parquet.read(tmp_path, **options)
    assert contents(samples) == [(IMAGES[row], [], "x", str(site)) for row, site in ((0, 1), (2, 2), (4, 1))]
    assert samples.keys == [f"0.{kind}/0", f"0.{kind}/2", f"1.{kind}/1"]
    pattern = parquet.read(f"{tmp_path}/{{1,0}}.{kind}", **options)
    assert pattern.keys == [f"1.{kind}/1", f"0.{kind}/0", f"0.{kind}/2"]
    assert [found[0] for found in contents(pattern)] == [IMAGES[4], IMAGES[0], IMAGES[2]]
    with fails("split", "no row has 'val' in column 'part'; there are 'None', 'test', 'train'"):
        parquet.read(tmp_path, **{**options, "split": "val"})
    with fails("split_column", "split is 'train'; split_column must name"):
        parquet.read(tmp_path, split="train", cache=cache)


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (pa.array(["a", " b ", "", None, "e", "f"]), [["a"], ["b"], [], [], ["e"], ["f"]]),
        (pa.array([["a", "b"], [], None, ["c", None, " "], ["e"], ["f"]]), [["a", "b"], [], [], ["c"], ["e"], ["f"]]),
        (pa.array(list("aabbcc")).dictionary_encode(), [[word] for word in "aabbcc"]),
        (pa.array(list("abcdef"), pa.large_string()), [[word] for word in "abcdef"]),
    ],
)
def test_captions_are_texts_or_lists(written, cache, captions, expected):
    assert parquet.read(written(captions=captions), cache=cache).captions == expected


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (pa.array([2, 0, 1, None, -1, 2]), [2, 0, 1, -1, -1, 2], ("0", "1", "2")),
        (pa.array(["dog", "cat", None, "dog", "cat", "dog"]), [1, 0, -1, 1, 0, 1], ("cat", "dog")),
        (pa.array(list("xyxyxy")).dictionary_encode(), [0, 1] * 3, ("x", "y")),
        (pa.array([True, False] * 3), [1, 0] * 3, ("0", "1")),
    ],
)
def test_labels_are_numbers_or_words(written, cache, labels, expected, names):
    samples = parquet.read(written(label=labels), cache=cache)
    assert (samples.labels, samples.class_names) == (expected, names)


def test_hugging_face_names_the_classes_and_the_image(written, cache, contents):
    features = {"picture": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    found = table(label=[1, 1, 0, -1, None, 1], path=["x"] * 6).rename_columns({"image": "picture"})
    samples = parquet.read(written(found.replace_schema_metadata(metadata)), cache=cache)
    assert [content[2] for content in contents(samples)] == ["bee", "bee", "ant", None, None, "bee"]
    assert samples.class_names == ("ant", "bee")


@pytest.mark.parametrize("column", ["string", "dictionary", "struct"])
def test_paths_are_plain_files(tmp_path, cache, contents, column):
    (tmp_path / "images").mkdir()
    for number, data in enumerate(IMAGES):
        (tmp_path / "images" / f"{number}.x").write_bytes(data)
    cells = pa.array([f"{number}.x" for number in range(6)])
    if column == "dictionary":
        cells = cells.dictionary_encode()
    if column == "struct":
        cells = pa.array([{"bytes": None, "path": path} for path in cells.to_pylist()])
    pq.write_table(pa.table({"image_path": cells, "text": list("abcdef")}), tmp_path / "a.parquet")
    samples = parquet.read(tmp_path / "a.parquet", images_root=tmp_path / "images", cache=cache)
    assert samples.offsets is None
    assert contents(samples) == [(data, [text], None, None) for data, text in zip(IMAGES, "abcdef", strict=True)]
    with fails("images_root", "none of the images"):
        parquet.read(tmp_path / "a.parquet", cache=cache)


@pytest.mark.parametrize(
    ("paths", "field", "words"),
    [
        (["../secret.jpg"], "image_column", "row 0 of .*leads outside"),
        (["/etc/passwd"], "image_column", "leads outside"),
        (["ok.jpg", None], "image_column", "row 1 of .* has nothing in column 'image'"),
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path, cache, paths, field, words):
    (tmp_path / "ok.jpg").write_bytes(IMAGES[0])
    pq.write_table(pa.table({"image": pa.array(paths)}), tmp_path / "a.parquet")
    with fails(field, words):
        parquet.read(tmp_path / "a.parquet", cache=cache)


@pytest.mark.parametrize("kind", ["parquet", "stream.arrow"])
def test_a_cell_without_an_image_is_a_bad_sample_by_name(tmp_path, cache, kind):
    cells = pa.array([IMAGES[0], None, b"", b"rubbish", IMAGES[1]], pa.binary())
    WRITERS[kind][0](pa.table({"image": cells}), tmp_path / f"a.{kind}")
    samples = parquet.read(tmp_path / f"a.{kind}", cache=cache)
    with pytest.raises(BadSamplesError, match="3 of 5") as caught:
        validate(samples)
    assert [key for key, _ in caught.value.report.bad] == [f"a.{kind}/{row}" for row in (1, 2, 3)]


@pytest.mark.parametrize(
    ("columns", "options", "field", "words"),
    [
        ({}, {"image_column": "jpg"}, "image_column", "no column 'jpg'; its columns are 'image'"),
        ({}, {"caption_column": "alt"}, "caption_column", "no column 'alt'"),
        ({}, {"domain_column": "site"}, "domain_column", "no column 'site'"),
        ({"n": [0.5] * 6}, {"label_column": "n"}, "label_column", "'n' is of type double; a class is"),
        ({"n": [0.5] * 6}, {"domain_column": "n"}, "domain_column", "'n' is of type double; a domain is"),
        ({"text": [1] * 6}, {}, "caption_column", "'text' is of type int64; captions are"),
        ({"n": [0.5] * 6}, {"image_column": "n"}, "image_column", "'n' is of type double; an image is bytes"),
        ({"n": [[b"x"]] * 6}, {"image_column": "n"}, "image_column", "an image is bytes, a path, or a struct"),
        ({}, {"images_root": "."}, "images_root", "holds the images themselves"),
    ],
)
def test_columns_that_do_not_fit_are_refused(written, cache, columns, options, field, words):
    with fails(field, words):
        parquet.read(written(**columns), **options, cache=cache)


def test_what_is_no_table_is_refused(tmp_path, cache):
    for content in (b"PAR1 but no more", b"ARROW1 but no more", b"rubbish", b""):
        (tmp_path / "a.parquet").write_bytes(content)
        with fails("path", "a.parquet' cannot be read as a table"):
            parquet.read(tmp_path / "a.parquet", cache=cache)
    (tmp_path / "a.parquet").write_bytes(b"FEA1....")
    with fails("path", "Feather's first version"):
        parquet.read(tmp_path / "a.parquet", cache=cache)
    pq.write_table(table().slice(0, 0), tmp_path / "a.parquet")
    with fails("path", "the table has no rows"):
        parquet.read(tmp_path / "a.parquet", cache=cache)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    with fails("image_column", "none of the columns 'n' is known for images"):
        parquet.read(tmp_path / "a.parquet", cache=cache)


@pytest.mark.parametrize("kind", ["parquet", "stream.arrow"])
def test_remote_tables_are_read_as_local_ones(tmp_path, cache, contents, kind):
    WRITERS[kind][0](table(label=list("xyxyxy")), tmp_path / f"a.{kind}")
    url = f"memory://{tmp_path.name}/a.{kind}"
    fsspec.filesystem("memory").pipe(url, (tmp_path / f"a.{kind}").read_bytes())
    remote, local = parquet.read(url, cache=cache), parquet.read(tmp_path / f"a.{kind}", cache=cache)
    assert contents(remote) == contents(local)
    assert remote.keys == local.keys
