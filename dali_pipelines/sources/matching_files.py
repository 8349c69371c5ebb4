"""The files that a path stands for: a file, those of a folder, or those that a pattern matches, local or remote."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.patterns import CONFINED_TO, PatternError, expanded
from dali_pipelines.sources.samples import DataError, exists
from dali_pipelines.storage import StorageError, is_url, list_files


@dataclass(frozen=True)
class MatchingFiles:
    """Files below one folder."""

    root: str
    """An absolute folder, or the URL of one."""
    names: list[str]
    """Relative paths."""
    whole_folder: bool = False
    """Whether they are all there is in a folder, not what a pattern or a name picks out."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def files(self) -> list[str]:
        """Absolute paths or URLs."""
        return [f"{self.root}/{name}" for name in self.names]


def matching_files(path: str | os.PathLike[str], endings: Sequence[str], *, what: str) -> MatchingFiles:
    """The files of a path, in the order of their names; of a pattern's braces in the order that they count.

    Args:
        path: a file; a folder, of which the files with one of the `endings` count, not those of folders within; or a
            pattern with `*`, `?`, `[...]`, `{a,b}` or `{000..099}`.
        what: what the files are, for messages.

    Raises:
        DataError: there are none, or one that a brace expression names is missing.
    """
    path = os.fspath(path)
    if path.startswith("pipe:"):
        raise DataError("path", f"commands are not run ({path.split()[0]!r} ...); name the {what} by path or URL")
    try:
        return _remote(path, endings, what) if is_url(path) else _local(path, endings, what)
    except StorageError as error:
        raise DataError("path", str(error)) from error
    except OSError as error:
        raise DataError("path", f"{error.filename!r} cannot be read: {error.strerror}") from error


def _local(path: str, endings: Sequence[str], what: str) -> MatchingFiles:
    place = Path(path).expanduser()
    if exists(place, "path"):
        place = place.resolve()
        if place.is_file():
            confine([str(place)])
            return MatchingFiles(str(place.parent), [place.name])
        names = [entry.name for entry in os.scandir(place) if entry.is_file()]
        matching = _of_folder(str(place), names, endings, what)
        confine(matching.files)
        return matching
    patterns = _expanded(str(place.absolute()))
    found = list(itertools.chain.from_iterable(_globbed(pattern) for pattern in patterns))
    missing = [file for file in found if not os.path.isfile(file)]
    if missing:
        more = f" and {len(missing) - 1} more of {len(found)}" if len(missing) > 1 else ""
        raise DataError("path", f"{what} {missing[0]!r}{more} {'do' if more else 'does'} not exist")
    confine(found)
    return _together(path, found, what)


def _globbed(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]


def confine(files: Iterable[str | os.PathLike[str]]) -> None:
    """See that files lie, links followed, below the folders that the process may read data from.

    A service whose callers may not name every path sets them in `CONFINED_TO`; without it there is no such limit.

    Raises:
        DataError: one lies elsewhere.
    """
    given = os.environ.get(CONFINED_TO)
    if given is None:
        return
    roots = tuple(os.path.realpath(root) for root in given.split(os.pathsep) if root)
    for file in files:
        real = os.path.realpath(file)
        if not any(real.startswith(root.rstrip("/") + "/") for root in roots):
            raise DataError("path", f"{os.fspath(file)!r} leads to a place that data may not be read from")


def _remote(url: str, endings: Sequence[str], what: str) -> MatchingFiles:
    patterns = _expanded(url)
    if len(patterns) == 1 and "*" not in url and not url.partition("?")[0].lower().endswith(tuple(endings)):
        return _of_folder(url.rstrip("/"), list_files(url), endings, what)
    found = itertools.chain.from_iterable(_listed(pattern) if "*" in pattern else [pattern] for pattern in patterns)
    return _together(url, list(found), what)


def _listed(pattern: str) -> list[str]:
    """The files behind a URL with `*` in it."""
    folder = pattern.partition("*")[0].rpartition("/")[0]
    depth = pattern.count("/")
    below = (f"{folder}/{name}" for name in list_files(folder))
    return [file for file in below if file.count("/") == depth and fnmatch.fnmatchcase(file, pattern)]


def _of_folder(root: str, names: list[str], endings: Sequence[str], what: str) -> MatchingFiles:
    fitting = [name for name in sorted(names) if name.lower().endswith(tuple(endings)) and not name.startswith(".")]
    chosen = [name for name in fitting if "/" not in name]
    if not chosen:
        deeper = f"; there are some in folders within, such as {fitting[0]!r}" if fitting else ""
        raise DataError("path", f"folder {root!r} holds no {what} ({' '.join(endings)}){deeper}")
    return MatchingFiles(root, chosen, whole_folder=True)


def _together(pattern: str, files: list[str], what: str) -> MatchingFiles:
    if not files:
        raise DataError("path", f"no {what} matches {pattern!r}")
    twice = next((file for file, count in Counter(files).items() if count > 1), None)
    if twice is not None:
        raise DataError("path", f"{pattern!r} names {twice!r} more than once")
    folders = {file.rpartition("/")[0] for file in files}
    root = folders.pop() if len(folders) == 1 else posixpath.commonpath(files)
    if is_url(pattern):  # commonpath makes one slash of two
        root = re.sub(r"^([a-zA-Z0-9+.-]+):/(?!/)", r"\1://", root)
    return MatchingFiles(root, [file[len(root) + 1 :] for file in files])


def _expanded(pattern: str) -> list[str]:
    try:
        return expanded(pattern)
    except PatternError as error:
        raise DataError("path", str(error)) from None
