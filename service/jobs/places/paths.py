"""Where all that a path stands for lies: links followed, braces and stars expanded."""

from __future__ import annotations

import re
from pathlib import Path

from dali_pipelines.patterns import expanded

MAX_PATTERNS = 100_000
"""Each is looked at while its sender waits."""
_PATTERN_CHARACTER = re.compile(r"[*?\[{]")


def meant(target: str) -> set[Path]:
    """Where all that a path stands for lies, links followed: the path itself if there is one of that name, else the
    folder of every pattern that its braces make.

    Raises:
        PatternError: the braces make nothing that can be read.
    """
    whole = _resolved(target)
    if Path(target).exists():
        return {whole}
    patterns = [Path(pattern) for pattern in expanded(target, most=MAX_PATTERNS)]
    one_each = {pattern.parent: pattern for pattern in patterns}.values()
    # Of one folder's files only those differ that are links, folders or patterns.
    special = (path for path in patterns if _PATTERN_CHARACTER.search(path.name) or path.is_symlink() or path.is_dir())
    return {whole, *(_resolved(str(path)) for path in (*one_each, *special))}


def _resolved(target: str) -> Path:
    """The path with links followed; of a pattern such as `shards/{00..09}.tar`, the folder that all it means lie in."""
    path = Path(target)
    fixed = Path(path.anchor)
    for part in path.parts[len(fixed.parts) :]:
        if _PATTERN_CHARACTER.search(part) and not (fixed / part).exists():
            # What a pattern stands for could climb up again.
            return Path("/") if ".." in path.parts else fixed.resolve()
        fixed /= part
    return fixed.resolve()
