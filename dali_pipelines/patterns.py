"""Brace patterns in paths and URLs, read alike by those who open files and those who judge paths. Light to import."""

from __future__ import annotations

import itertools
import re

from braceexpand import UnbalancedBracesError, braceexpand

CONFINED_TO = "ATTUNE_CONFINED_TO"
"""The environment variable with the folders that data may be read from, with `:` between them."""
_MAX_FILES = 1_000_000
_INSTEAD = "name their folder, or use `*`"
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")
_LONG_RANGE = re.compile(r"\{-?\d{19}|\.\.-?\d{19}")


class PatternError(ValueError):
    """A pattern that stands for nothing that may be read; the text says why."""


def expanded(pattern: str, *, most: int = _MAX_FILES) -> list[str]:
    """The patterns that a brace expression stands for. Whoever judges a path judges each of these.

    Args:
        most: patterns that it may stand for; no more than that many are made.

    Raises:
        PatternError: braces do not pair up, make `..` of something else, or stand for more than `most`.
    """
    sizes = [abs(int(last) - int(first)) for first, last in _RANGE.findall(pattern)]
    if _LONG_RANGE.search(pattern) or sum(sizes) >= most:
        raise PatternError(f"{pattern!r} stands for more than {most} files; {_INSTEAD}")
    try:
        found = list(itertools.islice(braceexpand(pattern, escape=False), most + 1))
    except UnbalancedBracesError:
        raise PatternError(f"the braces of {pattern!r} do not pair up") from None
    if len(found) > most:
        raise PatternError(f"{pattern!r} stands for more than {most} files; {_INSTEAD}")
    written = pattern.split("/").count("..")
    climbing = next((each for each in found if each.split("/").count("..") > written), None)
    if climbing is not None:
        raise PatternError(f"{pattern!r} leads out of its own folder: {climbing!r} is one that it stands for")
    return found
