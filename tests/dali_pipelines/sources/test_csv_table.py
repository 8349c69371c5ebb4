"""What a table of images gives, and the words for each mistake."""

from __future__ import annotations

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


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def test_rows_of_an_image_are_gathered(root):
    path = table(
        root, "id,image,caption", "1,images/d.png,one", '2,images/a.jpg,"two, with comma"', "3,images/d.png,three", ""
    )
    samples = csv_table.read(path)
    assert samples.paths == ["images/d.png", "images/a.jpg"]
    assert samples.captions == [["one", "three"], ["two, with comma"]]
    assert samples.labels is None
    assert samples.root == root.resolve()


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_found_or_given(root, separator):
    path = table(root, f"image{separator}caption", f"images/b c.jpg{separator}a dog")
    for given in (None, separator):
        assert csv_table.read(path, separator=given).captions == [["a dog"]]


def test_labels_become_numbers_in_order_of_name(root):
    path = table(root, "file,kind", "a.jpg,dog", "d.png,cat", "b c.jpg,dog")
    samples = csv_table.read(
        path, image_column="file", caption_column=None, label_column="kind", images_root=root / "images"
    )
    assert samples.labels == [1, 0, 1]
    assert samples.class_names == ("cat", "dog")
    assert samples.captions is None


def test_limits_count_images(root):
    path = table(root, "image,caption", *(f"images/{name},{n}" for name in ("a.jpg", "b c.jpg", "d.png") for n in "xy"))
    assert csv_table.read(path, limit=1, offset=1).paths == ["images/b c.jpg"]
    assert csv_table.read(path, limit=1, offset=1).captions == [["x", "y"]]
    with fails("offset", "offset 3 passes over all 3 images"):
        csv_table.read(path, offset=3)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8-sig", "utf-16"])
def test_other_encodings(root, encoding):
    path = table(root, "image,caption", "images/a.jpg,一只猫", encoding=encoding)
    given = "utf-8" if encoding == "utf-8-sig" else encoding
    assert csv_table.read(path, encoding=given).captions == [["一只猫"]]


def test_a_wrong_encoding_is_named(root):
    path = table(root, "image,caption", "images/a.jpg,咖啡和茶", encoding="gb18030")
    with fails("encoding", "is not utf-8 text"):
        csv_table.read(path)
    with fails("encoding", "no codec named 'klingon'"):
        csv_table.read(path, encoding="klingon")


def test_a_missing_column_names_those_there_are(root):
    path = table(root, "image,title", "images/a.jpg,x")
    with fails("caption_column", "no column 'caption'", "'image', 'title'"):
        csv_table.read(path)
    with fails("label_column", "no column 'kind'"):
        csv_table.read(path, caption_column="title", label_column="kind")


def test_a_wrong_separator_is_recognised(root):
    path = table(root, "image\tcaption", "images/a.jpg\tx")
    with fails("separator", "With comma", "looks separated by tab"):
        csv_table.read(path, separator=",")
    with fails("separator", "must be one character"):
        csv_table.read(path, separator="::")


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "images/../../secret.jpg", "images/..", "linked.jpg", "out/s.jpg"]
)
def test_paths_that_lead_outside_are_refused(root, name):
    inner = root / "inner"
    (inner / "images").mkdir(parents=True)
    (root / "secret.jpg").touch()
    (inner / "linked.jpg").symlink_to(root / "secret.jpg")
    (inner / "out").symlink_to(root / "images")
    with fails("image_column", "line 2", "leads outside"):
        csv_table.read(table(inner, "image,caption", f"{name},x"))


def test_links_within_the_root_are_followed(root):
    (root / "images/link.jpg").symlink_to(root / "images/a.jpg")
    assert csv_table.read(table(root, "image,caption", "images/link.jpg,x")).paths == ["images/a.jpg"]


def test_when_no_image_is_there_the_folder_is_to_blame(root):
    path = table(root, "image,caption", "a.jpg,x", "d.png,y")
    with fails("images_root", "none of the images", "'a.jpg'"):
        csv_table.read(path)
    with fails("images_root", "does not exist"):
        csv_table.read(path, images_root=root / "nowhere")


def test_a_row_of_another_length_is_named(root):
    with fails("path", "line 3", "has 3 columns; the header has 2"):
        csv_table.read(table(root, "image,caption", "images/a.jpg,x", "images/d.png,y,z"))


def test_an_empty_cell_is_named(root):
    with fails("caption_column", "line 2", "nothing in column 'caption'"):
        csv_table.read(table(root, "image,caption", "images/a.jpg,"))


def test_an_image_with_two_labels_is_refused(root):
    path = table(root, "image,kind", "images/a.jpg,cat", "images/a.jpg,dog")
    with fails("label_column", "'cat' on line 2 and 'dog' on line 3"):
        csv_table.read(path, caption_column=None, label_column="kind")


def test_one_class_is_refused_only_where_classes_are_trained(root):
    path = table(root, "image,kind", "images/a.jpg,cat")
    options = {"caption_column": None, "label_column": "kind"}
    assert len(csv_table.read(path, **options)) == 1
    with fails("label_column", "only one class with images, 'cat'"):
        csv_table.read(path, **options, several_classes=True)


def test_missing_and_empty_tables(root):
    with fails("path", "does not exist"):
        csv_table.read(root / "none.csv")
    with fails("path", "is a folder"):
        csv_table.read(root / "images")
    (root / "empty.csv").touch()
    with fails("path", "is empty"):
        csv_table.read(root / "empty.csv")
    with fails("path", "a header but no rows"):
        csv_table.read(table(root, "image,caption"))


def test_real_captions(test_data):
    samples = csv_table.read(test_data / "flickr8k/captions.csv", images_root=test_data / "flickr8k/images")
    assert len(samples) == 250
    assert all(len(captions) == 5 for captions in samples.captions)


def test_a_table_that_may_not_be_read(locked):
    with fails("path", "table.csv", "cannot be read: Permission denied"):
        csv_table.read(locked / "table.csv")


def test_a_table_that_cannot_be_read():
    with fails("path", "/proc/self/mem", "cannot be read: Input/output error"):
        csv_table.read("/proc/self/mem")


def test_a_table_where_nobody_may_look(locked):
    with fails("path", "folder/images/t.csv", "cannot be read: Permission denied"):
        csv_table.read(locked / "folder" / "images" / "t.csv")


def test_an_images_root_where_nobody_may_look(locked):
    with fails("images_root", "folder/images", "cannot be read: Permission denied"):
        csv_table.read(locked / "readable.csv", images_root=locked / "folder" / "images")
