"""Lists what lies below a URL."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote

from dali_pipelines.storage.errors import StorageError
from dali_pipelines.storage.remote import file_system, patiently, shown

_RESERVED = "%?#"  # in a file's name on a web server these must stay quoted


def list_files(url: str) -> list[str]:
    """Relative paths of all files below the URL of a folder, sorted; hidden files and folders do not count.

    A web server must answer with an index page for each folder, as most do for plain folders.

    Raises:
        StorageError: there is no such folder, it holds nothing, or the server cannot be reached.
    """
    is_web = url.startswith(("http://", "https://"))
    base = url.rstrip("/") + "/" if is_web else url.rstrip("/")
    system, root = file_system(base)
    found = patiently(lambda: system.find(root), url)
    files = _relative(found, prefix=root.rstrip("/") + "/")
    if not files:
        hint = "; a web server must answer with an index page of links" if is_web else ""
        raise StorageError(f"{shown(url)!r} holds no files{hint}")
    return sorted({_unquoted(file) for file in files} if is_web else files)


def _relative(found: Iterable[str], *, prefix: str) -> list[str]:
    below = (path[len(prefix) :] for path in found if path.startswith(prefix))
    return [path for path in below if path and not any(part.startswith(".") for part in path.split("/"))]


def _unquoted(path: str) -> str:
    """A path on a web server as its files are called, but for characters that mean something in a URL."""
    return "".join(quote(character) if character in _RESERVED else character for character in unquote(path))
