"""Numbers and words for classes."""

from __future__ import annotations

import pytest

from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.samples import DataError


@pytest.mark.parametrize(
    ("words", "names", "expected"),
    [
        (["dog", None, "cat", "dog"], (), ([1, -1, 0, 1], ("cat", "dog"))),
        (["dog", "cat"], ("dog", "cat", "ant"), ([0, 1], ("dog", "cat", "ant"))),
        (["3", "0", "-1"], (), ([3, 0, -1], ("0", "1", "2", "3"))),
        (["1", None], ("dog", "cat"), ([1, -1], ("dog", "cat"))),
        (["10", "9", "x"], (), ([0, 1, 2], ("10", "9", "x"))),
        ([None, None], ("dog",), ([-1, -1], ("dog",))),
    ],
)
def test_classes_are_numbered(words, names, expected):
    assert numbered(words, names=names, field="label") == expected


@pytest.mark.parametrize(
    ("words", "names", "message"),
    [
        (["2"], ("dog", "cat"), "class number 2 is beyond the 2 names"),
        (["-2"], (), "class number -2 is below 0"),
        (["9999999"], (), "class number 9999999 is above 999999"),
        (["cow"], ("dog", "cat"), "'cow' is none of the 2 classes, such as 'dog'"),
        (["a\nb"], (), "not one line"),
    ],
)
def test_what_is_no_class_is_refused(words, names, message):
    with pytest.raises(DataError, match=message, check=lambda error: error.field == "label_key"):
        numbered(words, names=names, field="label_key")
