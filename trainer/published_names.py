"""Class names by the name of a published set, or from a text file with a name a line. Imports no torch."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from dali_pipelines.sources import DataError
from trainer.prompts import published_class_names

_IMAGENET = "imagenet"
_TWICE = {"n04008634": "projectile", "n04355933": "sunglass"}
"""Where the published list calls two classes of ImageNet the same (`missile`, `sunglasses`), the first of WordNet's own
words for the one of them that has another: classes are told apart by name."""


def resolve_class_names(
    wanted: str, words: Sequence[str], *, classes: Sequence[str] | None
) -> dict[str, str] | list[str]:
    """What `class_names: WORD` stands for: names by the data's own words for a published set, or a file's lines.

    Names of ImageNet are found by WordNet id where the words are such. Names of any set are found by name, whatever
    case and punctuation; otherwise they count in the set's own order, as long as no name that the data know
    contradicts it.

    Args:
        wanted: a published set or a file.
        words: the data's own words, in order of their numbers.
        classes: the words that will be taken; None takes all.

    Raises:
        DataError: there is no such set or file, or its names do not fit the data.
    """
    published = published_class_names().get(wanted)
    if published is None:
        return _lines(wanted)
    names = _by_word(wanted, published, words)
    chosen = words if classes is None else [word for word in classes if word in names]
    return {word: names[word] for word in chosen}


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """WordNet ids of ImageNet's 1000 classes, in the order of their labels."""
    return tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text().split())


def _by_word(wanted: str, published: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    if wanted == _IMAGENET:
        named = dict(zip(imagenet_wnids(), published, strict=True)) | _TWICE
        if set(words) <= set(named):
            return {word: named[word] for word in words}
        published = tuple(named.values())
    places = {_plain(name): place for place, name in enumerate(published)}
    found = [places.get(_plain(word)) for word in words]
    by_number = all(word.isdecimal() for word in words)
    if not by_number and None not in found and len(set(found)) == len(found):
        return {word: published[place] for word, place in zip(words, found, strict=True) if place is not None}
    if by_number and words:
        highest = max(words, key=int)
        if int(highest) >= len(published):
            message = f"class_names {wanted!r} has {len(published)} names, counted from 0"
            raise DataError("class_names", f"{message}; the data have a class {highest!r}")
        return {word: published[int(word)] for word in words}
    if len(words) != len(published):
        message = f"class_names {wanted!r} has {len(published)} names; the data have {len(words)} classes"
        raise DataError("class_names", f"{message}, and these are not all among them by name")
    for number, place in enumerate(found):
        if place not in (None, number):
            message = f"class_names {wanted!r} does not fit: class {words[number]!r} is number {number} of the data"
            raise DataError("class_names", f"{message} and {place} of the set; give a mapping of word to name")
    return dict(zip(words, published, strict=True))


def _lines(wanted: str) -> list[str]:
    file = Path(wanted).expanduser()
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(wanted, published_class_names(), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "`attune prompts list` names the published sets"
        why = "is not utf-8 text" if isinstance(error, UnicodeDecodeError) else "cannot be read as a file"
        message = f"class_names is {wanted!r}, which is no published set and {why}; {hint}"
        raise DataError("class_names", message) from None


def _plain(name: str) -> str:
    return " ".join(re.findall(r"\w+", name.lower().replace("_", " ")))
