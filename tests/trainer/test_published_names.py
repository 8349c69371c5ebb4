"""Names of published sets and from files, matched to the words of the data."""

from __future__ import annotations

import csv

import pytest

from dali_pipelines.sources import DataError
from trainer.data_sources import list_source
from trainer.prompts import published_class_names
from trainer.published_names import imagenet_wnids, resolve_class_names
from trainer.spec import ClassListSource, ImageFolderSource


def fails(*words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == "class_names")


def test_imagenet_goes_by_wnid():
    words = ["n01443537", "n01440764"]
    assert resolve_class_names("imagenet", words, classes=None) == {"n01443537": "goldfish", "n01440764": "tench"}
    assert resolve_class_names("imagenet", words, classes=["n01440764"]) == {"n01440764": "tench"}


def test_all_of_imagenet_has_a_thousand_names():
    named = resolve_class_names("imagenet", imagenet_wnids(), classes=None)
    assert len(set(named.values())) == len(named) == 1000
    different = [
        pair for pair in zip(named.values(), published_class_names()["imagenet"], strict=True) if len(set(pair)) == 2
    ]
    assert different == [("projectile", "missile"), ("sunglass", "sunglasses")]
    numbered = resolve_class_names("imagenet", [str(number) for number in range(1000)], classes=None)
    assert list(numbered.values()) == list(named.values())


def test_the_wnids_are_those_of_the_names(real_data):
    with (real_data / "clip_text/imagenet_wnid_names.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(row["wnid"] for row in rows) == imagenet_wnids()
    assert tuple(row["open_clip_name"] for row in rows) == published_class_names()["imagenet"]


def test_names_are_found_whatever_their_case_and_punctuation():
    assert resolve_class_names("food101", ["Apple_Pie", "sushi"], classes=None) == {
        "Apple_Pie": "apple pie",
        "sushi": "sushi",
    }


def test_names_count_in_order_where_nothing_contradicts():
    codes = [f"{number:03d}x" for number in range(211)]
    named = resolve_class_names("country211", codes, classes=["002x"])
    assert named == {"002x": published_class_names()["country211"][2]}


def test_names_that_stand_elsewhere_are_refused():
    own = ["AnnualCrop", "Forest", "a", "b", "c", "d", "e", "River", "f", "g"]
    with fails("'eurosat' does not fit", "'Forest' is number 1 of the data and 0 of the set"):
        resolve_class_names("eurosat", own, classes=None)
    with fails("'cifar10' has 10 names; the data have 2"):
        resolve_class_names("cifar10", ["cat", "wolf"], classes=None)


def test_numbers_as_words_stand_for_the_sets_own_order():
    words = sorted(map(str, range(1000)))
    found = resolve_class_names("imagenet", words, classes=None)
    assert isinstance(found, dict)
    assert (found["10"], found["2"]) == ("brambling", "great white shark")
    with pytest.raises(DataError, match="class '1000'"):
        resolve_class_names("imagenet", [*words, "1000"], classes=None)


def test_a_file_names_classes_in_order(tmp_path, digits):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {number}\n" for number in range(10)))
    source = ImageFolderSource(path=str(digits / "heldout"), class_names=str(names))
    assert list_source(source).class_names[:2] == ("digit 0", "digit 1")
    with fails("'ciffar10', which is no published set", "did you mean cifar10"):
        list_source(source.model_copy(update={"class_names": "ciffar10"}))
    with fails("lists 10 names; the data have 2"):
        list_source(source.model_copy(update={"classes": ("one", "two")}))


def test_a_published_set_names_a_list_of_numbers(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "list.txt").write_text("a.png 9\n")
    samples = list_source(ClassListSource(path=str(tmp_path / "list.txt"), class_names="mnist"))
    assert samples.class_names == tuple("0123456789")
