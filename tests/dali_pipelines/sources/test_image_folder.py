"""What the image folder lists, and the words for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from dali_pipelines.sources import image_folder
from dali_pipelines.sources.samples import DataError


@pytest.fixture
def root(tmp_path) -> Path:
    names = ["big_cat/2.JPG", "big_cat/1.jpeg", "big_cat/deep/er/3.Png", "dog/a.webp", "dog/b.tif", "dog/c.GIF"]
    hidden = ["big_cat/.4.jpg", "big_cat/.hidden/5.jpg", ".git/6.jpg", "dog/notes.txt", "dog/noextension", "7.jpg"]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def test_images_are_listed_in_path_order_with_labels(cache, root):
    samples = image_folder.read(root, cache=cache)
    assert samples.paths == [
        "big_cat/1.jpeg",
        "big_cat/2.JPG",
        "big_cat/deep/er/3.Png",
        "dog/a.webp",
        "dog/b.tif",
        "dog/c.GIF",
    ]
    assert samples.labels == [0, 0, 0, 1, 1, 1]
    assert samples.class_names == ("big_cat", "dog")
    assert samples.root == root.resolve()
    assert samples.class_counts() == {"big_cat": 3, "dog": 3}


def test_an_empty_class_stays_a_class(cache, root):
    (root / "ant").mkdir()
    samples = image_folder.read(root, cache=cache)
    assert samples.class_names == ("ant", "big_cat", "dog")
    assert samples.labels == [1, 1, 1, 2, 2, 2]
    assert samples.class_counts()["ant"] == 0


def test_linked_folders_are_followed_once(cache, root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "x.png").touch()
    (root / "zebra").symlink_to(outside)
    (outside / "loop").symlink_to(outside)
    assert image_folder.read(root, cache=cache).paths[-1:] == ["zebra/x.png"]


def test_a_missing_folder(cache, root):
    with fails("path", "nowhere", "does not exist"):
        image_folder.read(root / "nowhere", cache=cache)


def test_a_file_for_a_folder(cache, root):
    with fails("path", "is a file, not a folder"):
        image_folder.read(root / "dog/a.webp", cache=cache)


def test_an_empty_folder(cache, tmp_path):
    with fails("path", "is empty"):
        image_folder.read(tmp_path, cache=cache)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a-000.tar", "webdataset"),
        ("a.parquet", "parquet"),
        ("dataset_dict.json", "hf_dataset"),
        ("state.json", "hf_dataset"),
    ],
)
def test_a_folder_of_another_format_is_told(cache, tmp_path, name, wanted):
    (tmp_path / name).touch()
    with fails("path", "no class folders; give", f"format: {wanted}"):
        image_folder.read(tmp_path, cache=cache)


def test_images_without_class_folders(cache, root):
    with fails("path", "holds images but no class folders"):
        image_folder.read(root / "dog", cache=cache)


def test_class_folders_without_images(cache, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.txt").touch()
    with fails("path", "no image in the 1 class folders", "cat", r"\.jpg"):
        image_folder.read(tmp_path, cache=cache)


def test_a_file_name_that_is_no_text_is_named(cache, root):
    (root / "dog" / b"caf\xe9.jpg".decode(errors="surrogateescape")).touch()
    with fails("path", r"dog/caf\\udce9\.jpg", "not valid UTF-8"):
        image_folder.read(root, cache=cache)


def test_a_class_folder_that_may_not_be_read_is_named(cache, locked):
    with fails("path", f"{locked}/folder", "cannot be read: Permission denied"):
        image_folder.read(locked, cache=cache)


@pytest.mark.parametrize("inner", ["", "images"])
def test_a_folder_that_may_not_be_read(cache, locked, inner):
    with fails("path", str(locked / "folder" / inner), "cannot be read: Permission denied"):
        image_folder.read(locked / "folder" / inner, cache=cache)
