"""Which samples are chosen and what their classes are called, whatever the format."""

from __future__ import annotations

import numpy as np
import pytest

from dali_pipelines.selection import Selection, select
from dali_pipelines.sources import image_folder
from dali_pipelines.sources.samples import DataError, Samples


def samples(labels=(0, 0, 0, 1, 1, 2, -1), **changes) -> Samples:
    columns = {
        "root": "/images",
        "paths": [f"{number}.jpg" for number in range(len(labels))],
        "labels": list(labels),
        "captions": [[f"caption {number}"] for number in range(len(labels))],
        "class_names": ("big_cat", "dog", "yak"),
        "domains": [number % 2 for number in range(len(labels))],
        "domain_names": ("photo", "sketch"),
        "offsets": list(range(len(labels))),
        "lengths": [10] * len(labels),
        "keys": [f"key {number}" for number in range(len(labels))],
    }
    return Samples(**(columns | changes))


def chosen(given: Samples | None = None, **choices) -> list[int]:
    return [int(path.removesuffix(".jpg")) for path in select(given or samples(), Selection(**choices)).paths]


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def test_without_choices_only_underscores_change():
    before = samples()
    after = select(before, Selection())
    assert after.class_names == ("big cat", "dog", "yak")
    assert (after.paths, after.labels, after.keys) == (before.paths, before.labels, before.keys)


def test_every_column_stays_with_its_image():
    after = select(samples(), Selection(offset=5))
    assert after.paths == ["5.jpg", "6.jpg"]
    assert after.labels == [2, -1]
    assert after.captions == [["caption 5"], ["caption 6"]]
    assert after.domains == [1, 0]
    assert (after.offsets, after.lengths, after.keys) == ([5, 6], [10, 10], ["key 5", "key 6"])


def test_classes_are_taken_and_numbered_in_the_given_order():
    after = select(samples(), Selection(classes=["yak", "big_cat"]))
    assert after.class_names == ("yak", "big cat")
    assert after.paths == ["0.jpg", "1.jpg", "2.jpg", "5.jpg"]
    assert after.labels == [1, 1, 1, 0]


def test_wrong_classes_are_named():
    with fails("classes", "'bigcat'", "did you mean big_cat"):
        chosen(classes=["bigcat"])
    with fails("classes", "'dog' twice"):
        chosen(classes=["dog", "yak", "dog"])
    with fails("classes", "no sample of the classes yak"):
        chosen(samples([0, 1]), classes=["yak"])
    with fails("classes", "the data have no classes"):
        chosen(Samples("/", ["0.jpg"]), classes=["yak"])


def test_a_mapping_renames_some():
    assert select(samples(), Selection(class_names={"big_cat": "lion"})).class_names == ("lion", "dog", "yak")
    with fails("class_names", "'xyz'", "there are: big_cat, dog, yak"):
        chosen(class_names={"xyz": "lion"})
    with fails("class_names", "'big_cat' and 'dog' would both be called 'dog'"):
        chosen(class_names={"big_cat": "dog"})


def test_a_list_names_all_in_order():
    after = select(samples(), Selection(classes=["yak", "dog"], class_names=["ox", "wolf"]))
    assert after.class_names == ("ox", "wolf")
    with fails("class_names", "lists 2 names; the data have 3 classes"):
        chosen(class_names=["ox", "wolf"])


def test_a_list_goes_by_the_numbers_that_classes_are_called_by():
    words = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, ...
    numbers = Samples("/r", [f"{word}.jpg" for word in words], labels=list(range(12)), class_names=words)
    names = [f"name {number}" for number in range(12)]
    chosen = select(numbers, Selection(class_names=names))
    assert chosen.class_names == tuple(f"name {word}" for word in words)
    assert select(numbers, Selection(class_names=[*names, "more"])).class_names == chosen.class_names
    with pytest.raises(DataError, match="lists 11 names, counted from 0; the data have a class '11'"):
        select(numbers, Selection(class_names=names[:11]))
    from_one = Samples("/r", ["a.jpg", "b.jpg"], labels=[0, 1], class_names=("10", "9"))
    assert select(from_one, Selection(class_names=["nine", "ten"])).class_names == ("ten", "nine")
    reordered = select(numbers, Selection(classes=["3", "10"], class_names=["three", "ten"]))
    assert reordered.class_names == ("three", "ten")


def test_limits_of_each_class():
    assert chosen(limit_per_class=1) == [0, 3, 5]
    assert chosen(limit_per_class=1, offset_per_class=1) == [1, 4]
    assert chosen(offset_per_class=2) == [2]
    assert chosen(samples([2, 0, 1, 0, 2]), limit_per_class=1) == [0, 1, 2]
    with fails("offset_per_class", "no image is left after the first 5"):
        chosen(offset_per_class=5)
    with fails("limit_per_class", "the data have no classes"):
        chosen(Samples("/", ["0.jpg"]), limit_per_class=1)


def test_limits_come_after_all_other_choices():
    assert chosen(limit=2, offset=1) == [1, 2]
    assert chosen(limit=100, offset=5) == [5, 6]
    assert chosen(classes=["dog", "yak"], limit=2, offset=1) == [4, 5]
    assert chosen(limit_per_class=1, limit=2) == [0, 3]
    with fails("offset", "offset 7 passes over all 7 samples"):
        chosen(offset=7)


def test_a_fraction_is_drawn_of_each_class():
    labels = np.repeat([0, 1, 2], [40, 20, 10]).tolist()
    after = select(samples(labels), Selection(fraction=0.5, seed=3))
    assert np.bincount(after.labels).tolist() == [20, 10, 5]
    assert chosen(samples(labels), fraction=0.5, seed=3) == sorted(chosen(samples(labels), fraction=0.5, seed=3))
    assert chosen(samples(labels), fraction=0.5, seed=3) != chosen(samples(labels), fraction=0.5, seed=4)
    unlabelled = Samples("/", [f"{number}.jpg" for number in range(10)])
    assert len(chosen(unlabelled, fraction=0.3)) == 3


def test_an_image_folder_is_chosen_from(folder, cache):
    after = select(image_folder.read(folder, cache=cache), Selection(classes=["zebra", "dog"], limit_per_class=2))
    assert [path.partition("/")[0] for path in after.paths] == ["dog", "dog", "zebra", "zebra"]
    assert after.labels == [1, 1, 0, 0]
