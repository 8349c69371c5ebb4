"""What a table of images gives, and the words for each mistake."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from dali_pipelines.sources import csv_table
from dali_pipelines.sources.samples import DataError


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("images/a.jpg", "images/b c.jpg", "images/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def table(root: Path, *lines: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (root / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return root / name


@pytest.fixture
def read(cache):
    return functools.partial(csv_table.read, cache=cache)


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def test_rows_of_an_image_are_gathered(read, root):
    path = table(
        root, "id,image,caption", "1,images/d.png,one", '2,images/a.jpg,"two, with comma"', "3,images/d.png,three", ""
    )
    samples = read(path)
    assert samples.paths == ["images/d.png", "images/a.jpg"]
    assert samples.captions == [["one", "three"], ["two, with comma"]]
    assert samples.labels is None
    assert samples.root == root.resolve()


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_found_or_given(read, root, separator):
    path = table(root, f"image{separator}caption", f"images/b c.jpg{separator}a dog")
    for given in (None, separator):
        assert read(path, separator=given).captions == [["a dog"]]


def test_labels_become_numbers_in_order_of_name(read, root):
    path = table(root, "file,kind", "a.jpg,dog", "d.png,cat", "b c.jpg,dog")
    samples = read(path, image_column="file", caption_column=None, label_column="kind", images_root=root / "images")
    assert samples.labels == [1, 0, 1]
    assert samples.class_names == ("cat", "dog")
    assert samples.captions is None


def test_labels_that_are_numbers_keep_their_order_and_minus_one_is_none(read, root):
    path = table(root, "image,label", "images/a.jpg,10", "images/b c.jpg,2", "images/d.png,-1")
    found = read(path, caption_column=None, label_column="label")
    assert (found.labels, found.class_names) == ([10, 2, -1], tuple(map(str, range(11))))


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8-sig", "utf-16"])
def test_other_encodings(read, root, encoding):
    path = table(root, "image,caption", "images/a.jpg,一只猫", encoding=encoding)
    given = "utf-8" if encoding == "utf-8-sig" else encoding
    assert read(path, encoding=given).captions == [["一只猫"]]


def test_a_wrong_encoding_is_named(read, root):
    path = table(root, "image,caption", "images/a.jpg,咖啡和茶", encoding="gb18030")
    with fails("encoding", "is not utf-8 text"):
        read(path)
    with fails("encoding", "no codec named 'klingon'"):
        read(path, encoding="klingon")


def test_a_missing_column_names_those_there_are(read, root):
    path = table(root, "image,title", "images/a.jpg,x")
    with fails("caption_column", "no column 'caption'", "'image', 'title'"):
        read(path)
    with fails("label_column", "no column 'kind'"):
        read(path, caption_column="title", label_column="kind")


def test_a_wrong_separator_is_recognised(read, root):
    path = table(root, "image\tcaption", "images/a.jpg\tx")
    with fails("separator", "With comma", "looks separated by tab"):
        read(path, separator=",")
    with fails("separator", "must be one character"):
        read(path, separator="::")


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "images/../../secret.jpg", "images/..", "linked.jpg", "out/s.jpg"]
)
def test_paths_that_lead_outside_are_refused(read, root, name):
    inner = root / "inner"
    (inner / "images").mkdir(parents=True)
    (root / "secret.jpg").touch()
    (inner / "linked.jpg").symlink_to(root / "secret.jpg")
    (inner / "out").symlink_to(root / "images")
    with fails("image_column", "line 2", "leads outside"):
        read(table(inner, "image,caption", f"{name},x"))


def test_links_within_the_root_are_followed(read, root):
    (root / "images/link.jpg").symlink_to(root / "images/a.jpg")
    assert read(table(root, "image,caption", "images/link.jpg,x")).paths == ["images/a.jpg"]


def test_when_no_image_is_there_the_folder_is_to_blame(read, root):
    path = table(root, "image,caption", "a.jpg,x", "d.png,y")
    with fails("images_root", "none of the images", "'a.jpg'"):
        read(path)
    with fails("images_root", "does not exist"):
        read(path, images_root=root / "nowhere")


def test_a_row_of_another_length_is_named(read, root):
    with fails("path", "line 3", "has 3 columns; the header has 2"):
        read(table(root, "image,caption", "images/a.jpg,x", "images/d.png,y,z"))


def test_an_empty_cell_is_named(read, root):
    with fails("caption_column", "line 2", "nothing in column 'caption'"):
        read(table(root, "image,caption", "images/a.jpg,"))


def test_an_image_with_two_labels_is_refused(read, root):
    path = table(root, "image,kind", "images/a.jpg,cat", "images/a.jpg,dog")
    with fails("label_column", "'cat' on line 2 and 'dog' on line 3"):
        read(path, caption_column=None, label_column="kind")


def test_missing_and_empty_tables(read, root):
    with fails("path", "does not exist"):
        read(root / "none.csv")
    with fails("path", "is a folder"):
        read(root / "images")
    (root / "empty.csv").touch()
    with fails("path", "is empty"):
        read(root / "empty.csv")
    with fails("path", "a header but no rows"):
        read(table(root, "image,caption"))


def test_real_captions(read, test_data):
    samples = read(test_data / "flickr8k/captions.csv", images_root=test_data / "flickr8k/images")
    assert len(samples) == 250
    assert all(len(captions) == 5 for captions in samples.captions)


def test_a_table_that_may_not_be_read(read, locked):
    with fails("path", "table.csv", "cannot be read: Permission denied"):
        read(locked / "table.csv")


def test_a_table_that_cannot_be_read(read):
    with fails("path", "/proc/self/mem", "cannot be read: Input/output error"):
        read("/proc/self/mem")


def test_a_table_where_nobody_may_look(read, locked):
    with fails("path", "folder/images/t.csv", "cannot be read: Permission denied"):
        read(locked / "folder" / "images" / "t.csv")


def test_an_images_root_where_nobody_may_look(read, locked):
    with fails("images_root", "folder/images", "cannot be read: Permission denied"):
        read(locked / "readable.csv", images_root=locked / "folder" / "images")


def test_domains_become_numbers(read, root):
    path = table(root, "image,kind,region", "images/d.png,cat,Asia", "images/a.jpg,dog,Africa")
    samples = read(path, caption_column=None, label_column="kind", domain_column="region")
    assert samples.domain_names == ("Africa", "Asia")
    assert samples.domains == [1, 0]
    assert read(path, caption_column=None, label_column="kind").domains is None


def test_an_image_with_two_domains_is_refused(read, root):
    path = table(root, "image,region", "images/a.jpg,Asia", "images/a.jpg,Africa")
    with fails("domain_column", "'Asia' on line 2 and 'Africa' on line 3", "one domain"):
        read(path, caption_column=None, domain_column="region")


def test_a_split_is_taken(read, root):
    lines = ("image,caption,part", "images/d.png,,test", "images/a.jpg,x,train", "images/b c.jpg,y,train")
    path = table(root, *lines)
    assert read(path, split_column="part", split="train").paths == ["images/a.jpg", "images/b c.jpg"]
    with fails("split", "no row", "'val'", "there are: test, train"):
        read(path, split_column="part", split="val")
    with fails("caption_column", "line 2", "nothing in column 'caption'"):
        read(path, split_column="part", split="test")
    with fails("split_column", "no column 'fold'"):
        read(path, split_column="fold", split="test")


def test_images_alone(read, root):
    samples = read(table(root, "image", "images/a.jpg"), caption_column=None)
    assert (samples.paths, samples.labels, samples.captions) == (["images/a.jpg"], None, None)
