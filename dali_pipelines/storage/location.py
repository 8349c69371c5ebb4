"""Where an image's bytes lie."""

from __future__ import annotations

import re
from typing import NamedTuple

WHOLE_FILE = -1
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


class Location(NamedTuple):
    """A file, or part of one."""

    file: str
    """Absolute path, or a URL."""
    offset: int = 0
    """First byte."""
    length: int = WHOLE_FILE
    """Number of bytes; -1 takes the whole file."""


def is_url(path: str) -> bool:
    """Whether a path names something that is not on the local file system."""
    return _URL.match(path) is not None
