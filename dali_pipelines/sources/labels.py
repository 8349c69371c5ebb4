"""Numbers for classes that the data give as numbers or as words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dali_pipelines.manifest import NO_LABEL
from dali_pipelines.sources.samples import DataError

_MAX_CLASSES = 1_000_000
_NUMBER = re.compile(r"-?\d+")


def numbered(
    words: Sequence[str | None], *, names: Sequence[str] = (), field: str
) -> tuple[list[int], tuple[str, ...]]:
    """Each sample's class as its place among all classes, -1 for None and for the word `-1`; and the classes' words.

    Words that are all numbers are places in `names` or, without names, stand for themselves: then there is a class for
    every number up to the largest, so that labels do not depend on which samples are there. Other words are looked up
    in `names` or, without names, numbered in their alphabetical order.

    Args:
        field: the source's field to blame.

    Raises:
        DataError: a word is no class.
    """
    there = {word for word in words if word is not None}
    places: dict[str | None, int]
    if all(_NUMBER.fullmatch(word) for word in there):
        places, names = _places_of_numbers(there, names, field)
    else:
        _require_one_line(there, field)
        names = tuple(names) or tuple(sorted(there))
        places = {name: number for number, name in enumerate(names)}
        strangers = sorted(there - places.keys())
        if strangers:
            raise DataError(field, f"{strangers[0]!r} is none of the {len(names)} classes, such as {names[0]!r}")
    places[None] = NO_LABEL
    return [places[word] for word in words], tuple(names)


def _places_of_numbers(
    there: set[str], names: Sequence[str], field: str
) -> tuple[dict[str | None, int], tuple[str, ...]]:
    numbers = {word: int(word) for word in there}
    lowest, highest = min(numbers.values(), default=0), max(numbers.values(), default=-1)
    if lowest < NO_LABEL:
        raise DataError(field, f"class number {lowest} is below 0; only -1 may stand for no class")
    if names and highest >= len(names):
        raise DataError(field, f"class number {highest} is beyond the {len(names)} names, which are counted from 0")
    if highest >= _MAX_CLASSES:
        raise DataError(field, f"class number {highest} is above {_MAX_CLASSES - 1}; number the classes from 0")
    return dict(numbers), tuple(names) or tuple(str(number) for number in range(highest + 1))


def _require_one_line(words: set[str], field: str) -> None:
    for word in words:
        if len(word.splitlines()) != 1:
            raise DataError(field, f"the class {word!r} is not one line of text")
