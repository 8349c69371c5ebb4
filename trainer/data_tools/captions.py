"""What a data set's captions are like: how many, empty and repeated ones, and how long for a text tower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_BATCH = 1024
_ROOM = 512  # tokens up to which a caption's length is told apart
_NUM_NAMED = 5


@dataclass(frozen=True)
class CaptionFacts:
    """The captions of one data set."""

    num_captions: int
    num_without: int
    """Images without a caption."""
    num_empty: int
    """Captions of nothing but white space."""
    num_repeated: int
    """Captions that another image, or the same one, has as well."""
    most_repeated: dict[str, int]
    """The captions that most share, with their number."""
    context_length: int
    """Tokens that the text tower takes."""
    median_tokens: int
    p95_tokens: int
    max_tokens: int
    num_too_long: int
    """Captions of more tokens than the text tower takes."""
    longest: str
    """The beginning of one of those with most tokens."""


def caption_facts(captions: Iterable[Sequence[str]], *, tokenize: Any, context_length: int) -> CaptionFacts:
    """Measure captions, given for each image.

    Args:
        tokenize: a tokenizer of open_clip, which pads to the length that it is given.
    """
    times: Counter[str] = Counter()
    num_without = 0
    for own in captions:
        num_without += not own
        times.update(own)
    texts = list(times)
    lengths = np.concatenate([np.zeros(0, np.int64), *_lengths(texts, tokenize, context_length)])
    weights = np.array([times[text] for text in texts], np.int64)
    ordered = np.argsort(lengths, kind="stable")
    return CaptionFacts(
        num_captions=times.total(),
        num_without=num_without,
        num_empty=sum(count for text, count in times.items() if not text.strip()),
        num_repeated=sum(count for count in times.values() if count > 1),
        most_repeated={text[:80]: count for text, count in times.most_common(_NUM_NAMED) if count > 1},
        context_length=context_length,
        median_tokens=_quantile(lengths[ordered], weights[ordered], 0.5),
        p95_tokens=_quantile(lengths[ordered], weights[ordered], 0.95),
        max_tokens=int(lengths.max(initial=0)),
        num_too_long=int(weights[lengths > context_length].sum()),
        longest=texts[int(ordered[-1])][:80] if texts else "",
    )


def _lengths(texts: Sequence[str], tokenize: Any, context_length: int) -> list[np.ndarray]:
    """Tokens of each text with those that mark start and end, counted up to a bound."""
    room = max(_ROOM, 2 * context_length)
    padding = int(tokenize([""], context_length=room)[0, -1])
    found = []
    for start in range(0, len(texts), _BATCH):
        tokens = np.asarray(tokenize(list(texts[start : start + _BATCH]), context_length=room))
        trailing = np.argmax(tokens[:, ::-1] != padding, axis=1)
        found.append(room - trailing)
    return found


def _quantile(ordered: np.ndarray, weights: np.ndarray, share: float) -> int:
    if not len(ordered):
        return 0
    return int(ordered[np.searchsorted(np.cumsum(weights), share * weights.sum())])
