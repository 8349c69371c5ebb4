"""Which of a source's samples are taken, and what their classes are called: the same choices for every format."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dali_pipelines.sampler import draw_shares
from dali_pipelines.sources.samples import DataError, Samples


@dataclass(frozen=True)
class Selection:
    """The choices; the defaults take everything as it is."""

    classes: Sequence[str] | None = None
    """Take only these classes, by the data's own words, and number them in this order."""
    class_names: Mapping[str, str] | Sequence[str] = field(default_factory=dict)
    """Prompt names: by the data's own word, or all of them in order of the labels."""
    limit: int | None = None
    """Take only so many samples."""
    offset: int = 0
    """After passing over so many."""
    limit_per_class: int | None = None
    """Take only so many samples of each class."""
    offset_per_class: int = 0
    """After passing over so many of each class."""
    fraction: float = 1.0
    """Take this share of each class, drawn by `seed`."""
    seed: int = 0


def select(samples: Samples, chosen: Selection) -> Samples:
    """The chosen samples, in the order of the data, with classes called as they read in a prompt.

    Raises:
        DataError: a class is named that is not there, a choice needs classes that the data lack, or nothing is left.
    """
    if chosen.classes is not None:
        samples = _only_classes(samples, tuple(chosen.classes))
    names = chosen.class_names
    if chosen.classes is None and not isinstance(names, Mapping):
        names = _by_number(tuple(names), samples.class_names)
    samples = replace(samples, class_names=_prompt_names(samples, names))
    if chosen.offset_per_class or chosen.limit_per_class is not None:
        samples = _some_of_each_class(samples, offset=chosen.offset_per_class, limit=chosen.limit_per_class)
    if chosen.fraction < 1:
        labels = np.zeros(len(samples), np.int64) if samples.labels is None else np.asarray(samples.labels)
        samples = samples.select(draw_shares(labels, fraction=chosen.fraction, seed=chosen.seed))
    if chosen.offset or chosen.limit is not None:
        end = len(samples) if chosen.limit is None else chosen.offset + chosen.limit
        kept = samples.select(range(min(chosen.offset, len(samples)), min(end, len(samples))))
        if not len(kept):
            raise DataError("offset", f"offset {chosen.offset} passes over all {len(samples)} samples")
        samples = kept
    return samples


def _only_classes(samples: Samples, classes: tuple[str, ...]) -> Samples:
    labels = _labels(samples, "classes")
    for name in classes:
        _require_class(name, samples.class_names, "classes")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError("classes", f"classes has {twice!r} twice; name each class once")
    numbers = np.full(len(samples.class_names) + 1, -1, np.int64)  # the last one for samples without a label
    for number, name in enumerate(classes):
        numbers[samples.class_names.index(name)] = number
    relabelled = numbers[labels]
    kept = np.flatnonzero(relabelled >= 0)
    if not len(kept):
        raise DataError("classes", f"there is no sample of the classes {', '.join(classes)}")
    return replace(samples.select(kept), labels=relabelled[kept].tolist(), class_names=classes)


def _some_of_each_class(samples: Samples, *, offset: int, limit: int | None) -> Samples:
    labels = _labels(samples, "limit_per_class" if limit is not None else "offset_per_class")
    end = math.inf if limit is None else offset + limit
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    place_in_class = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    chosen = np.sort(order[(ordered >= 0) & (place_in_class >= offset) & (place_in_class < end)])
    if not len(chosen):
        raise DataError("offset_per_class", f"no image is left after the first {offset} of each class")
    return samples.select(chosen)


def _labels(samples: Samples, field: str) -> np.ndarray:
    if samples.labels is None or not samples.class_names:
        raise DataError(field, f"{field} chooses by class, and the data have no classes")
    return np.asarray(samples.labels, np.int64)


def _prompt_names(samples: Samples, renamed: Mapping[str, str] | Sequence[str]) -> tuple[str, ...]:
    words = samples.class_names
    if isinstance(renamed, Mapping):
        for word in renamed:
            _require_class(word, words, "class_names")
        names = tuple(renamed.get(word, word.replace("_", " ")) for word in words)
    else:
        names = tuple(renamed)
        if len(names) != len(words):
            message = f"class_names lists {len(names)} names; the data have {len(words)} classes"
            raise DataError("class_names", message)
    seen: dict[str, str] = {}
    for name, word in zip(names, words, strict=True):
        if name in seen:
            message = f"the classes {seen[name]!r} and {word!r} would both be called {name!r}; name one of them"
            raise DataError("class_names", message)
        seen[name] = word
    return names


def _by_number(names: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    """Where classes are called by numbers, however these are sorted as words, the names in the order of the words."""
    if not words or not all(word.isdecimal() for word in words):
        return names
    if len(names) == len(words):
        by_word = dict(zip(sorted(words, key=int), names, strict=True))
        return tuple(by_word[word] for word in words)
    highest = max(words, key=int)
    if int(highest) >= len(names):
        message = f"class_names lists {len(names)} names, counted from 0; the data have a class {highest!r}"
        raise DataError("class_names", message)
    return tuple(names[int(word)] for word in words)


def _require_class(word: str, words: tuple[str, ...], field: str) -> None:
    if word not in words:
        near = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
        more = f" and {len(words) - 10} more" if len(words) > 10 else ""
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(words[:10])}{more}"
        raise DataError(field, f"{field} has {word!r}, but there is no such class; {hint}")
