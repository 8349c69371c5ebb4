"""Lists of images and classes: numbers, words, paths alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dali_pipelines.selection import Selection, select
from dali_pipelines.sources import class_list
from dali_pipelines.sources.samples import DataError


@pytest.fixture
def root(tmp_path) -> Path:
    names = (
        "a.jpg",
        "b c.JPEG",
        "d.png",
        "n01440764/x_1.JPEG",
        "n02102177/x_2.JPEG",
        "train/n01440764/y.JPEG",
        "scan_7",
    )
    for name in (*names, "scan_7"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def listed(root: Path, *lines: str, name: str = "train.txt") -> Path:
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def test_numbers_keep_their_order_and_their_gaps(root, cache):
    path = listed(root, "a.jpg 10", "", "b c.JPEG 2", "d.png\t0")
    samples = class_list.read(path, cache=cache)
    assert samples.paths == ["a.jpg", "b c.JPEG", "d.png"]
    assert samples.labels == [10, 2, 0]
    assert samples.class_names == tuple(str(number) for number in range(11))


def test_a_list_of_names_fits_the_numbers(root, cache):
    samples = class_list.read(listed(root, "a.jpg 2", "d.png 0"), cache=cache)
    named = select(samples, Selection(class_names=["ant", "bee", "cat"]))
    assert [named.class_names[label] for label in named.labels] == ["cat", "ant"]


def test_words_may_have_spaces_and_are_numbered_by_name(root, cache):
    samples = class_list.read(listed(root, "a.jpg golden retriever", "d.png cat"), cache=cache)
    assert samples.labels == [1, 0]
    assert samples.class_names == ("cat", "golden retriever")


def test_a_name_without_an_extension_ends_before_the_last_field(root, cache):
    samples = class_list.read(listed(root, "scan_7 3"), cache=cache)
    assert (samples.paths, samples.labels) == (["scan_7"], [3])


@pytest.mark.parametrize("prefix", ["", "./"])
def test_paths_alone_have_their_folder_as_class(root, cache, prefix):
    samples = class_list.read(listed(root, f"{prefix}n02102177/x_2.JPEG", f"{prefix}n01440764/x_1.JPEG"), cache=cache)
    assert samples.class_names == ("n01440764", "n02102177")
    assert samples.labels == [1, 0]


def test_folders_that_all_paths_share_are_no_class(root, cache):
    (root / "train/n02102177").mkdir()
    samples = class_list.read(listed(root, "train/n01440764/y.JPEG", "train/n02102177/z.JPEG"), cache=cache)
    assert samples.class_names == ("n01440764", "n02102177")
    assert class_list.read(listed(root, "train/n01440764/y.JPEG"), cache=cache).class_names == ("n01440764",)


def test_images_may_lie_elsewhere(root, cache, tmp_path_factory):
    path = listed(tmp_path_factory.mktemp("lists"), "d.png 1")
    assert class_list.read(path, images_root=root, cache=cache).root == root.resolve()
    with fails("images_root", "none of the images", "'d.png'"):
        class_list.read(path, cache=cache)


def test_mistakes_are_named(root, cache):
    with fails("path", "line 2", "has no label", "line 1 has one"):
        class_list.read(listed(root, "a.jpg 1", "d.png"), cache=cache)
    with fails("path", "'1' on line 1 and '2' on line 3"):
        class_list.read(listed(root, "a.jpg 1", "d.png 1", "a.jpg 2"), cache=cache)
    with fails("path", "line 1", "neither a label nor a folder"):
        class_list.read(listed(root, "a.jpg"), cache=cache)
    with fails("path", "line 1", "leads outside"):
        class_list.read(listed(root, "../a.jpg 1"), cache=cache)
    with fails("path", "names no image"):
        class_list.read(listed(root, ""), cache=cache)
    with fails("path", "class number -2"):
        class_list.read(listed(root, "a.jpg -2"), cache=cache)
    (root / "latin.txt").write_bytes(b"caf\xe9.jpg 1\n")
    with fails("path", "is not utf-8"):
        class_list.read(root / "latin.txt", cache=cache)


def test_imagenet_by_wnid(test_data, cache, tmp_path):
    root = test_data / "imagenet_sample"
    files = sorted(path.relative_to(root).as_posix() for path in root.glob("n*/*"))
    samples = class_list.read(listed(tmp_path, *files), images_root=root, cache=cache)
    assert len(samples) == len(files)
    assert samples.class_names == tuple(sorted({file.partition("/")[0] for file in files}))
