"""Objects behind URLs, through fsspec: what they are, their bytes, and patience with the network.

Credentials and endpoints are those that fsspec's packages take from the environment (`AWS_*`, `FSSPEC_S3_*`,
`GOOGLE_APPLICATION_CREDENTIALS`, ...). No message shows the query of a URL, which may hold a signature.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.asyn import sync

from dali_pipelines.storage.errors import OutageError, StorageError

NUM_TRIES = 5
BLOCK_BYTES = 16 << 20  # read at a time, and what is lost when a transfer breaks off
_FIRST_PAUSE_S = 0.5
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_FINAL_BUGS = (ValueError, TypeError, NotImplementedError, AttributeError)
_VERSIONS = ("ETag", "etag", "e_tag", "md5Hash", "generation", "Content-MD5", "Last-Modified", "LastModified", "mtime")
_CONNECT_S, _SILENCE_S = 30, 60
_SAID_AGAIN_S = 30.0

_log = logging.getLogger(__name__)
_said_at: dict[str, float] = {}  # by host
_said_lock = threading.Lock()

Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectInfo:
    """What a server says of an object before it is fetched."""

    size: int | None
    """Bytes; None where the server does not say."""
    version: str
    """Changes when the object does, as far as the server tells: its ETag, checksum or date, and the size."""

    @property
    def tells_changes(self) -> bool:
        """Whether the server tells more than the size."""
        return not self.version.startswith(";")


class Remote:
    """One object behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._path = file_system(url)

    def info(self) -> ObjectInfo:
        """Size and version, by one request.

        Raises:
            StorageError: there is no such object, or the server cannot be reached.
        """
        found = self._patiently(lambda: self._system.info(self._path))
        if found.get("type") == "directory":
            raise StorageError(f"{shown(self.url)!r} is a folder, not a file")
        version = next((f"{name}={found[name]}" for name in _VERSIONS if found.get(name)), "")
        return ObjectInfo(found.get("size"), f"{version};size={found.get('size')}")

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """The object's bytes, or those from `start` up to `end`."""
        data = self._patiently(lambda: self._system.cat_file(self._path, start=start, end=end))
        if start is not None and end is not None and len(data) != end - start:
            raise StorageError(f"{shown(self.url)!r} gave {len(data)} bytes where {end - start} were asked for")
        return bytes(data)

    def blocks(self, size: int | None, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start` on, in blocks; one that can only be had in one stream starts with 0."""
        if size is not None and size <= BLOCK_BYTES and start == 0:
            yield self.read()
        elif size is None or not self.has_ranges:
            with self._system.open(self._path, "rb", block_size=0) as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        else:
            for first in range(start, size, BLOCK_BYTES):
                yield self.read(first, min(first + BLOCK_BYTES, size))

    @property
    def has_ranges(self) -> bool:
        """Whether parts can be asked for; a web server need not answer such requests."""
        if not self.url.startswith(("http://", "https://")):
            return True
        return self._patiently(lambda: sync(self._system.loop, _answers_ranges, self._system, self._path))

    def _patiently(self, request: Callable[[], Result]) -> Result:
        return patiently(request, self.url)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        StorageError: the protocol is unknown, or its package is not installed.
    """
    protocol = url.partition("://")[0].lower()
    options = {"client_kwargs": {"timeout": _http_timeout()}} if protocol in ("http", "https") else {}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'attune-clip[{extra}]'" if extra else str(error)
        raise StorageError(f"{shown(url)!r}: reading {protocol}:// needs another package: {remedy}") from error
    except ValueError as error:
        raise StorageError(f"{shown(url)!r}: {error}; fsspec's protocols can be used") from error


def patiently(request: Callable[[], Result], url: str) -> Result:
    """What a request gives, tried again with growing pauses where the network may be to blame.

    Raises:
        StorageError: it failed for good.
        OutageError: it failed too often.
    """
    for attempt in range(NUM_TRIES):
        try:
            return request()
        except StorageError:
            raise
        except Exception as raised:  # each protocol's package has exceptions of its own
            error = _true_cause(raised)
            if not _may_pass(error):
                raise StorageError(f"{shown(url)!r} cannot be read: {_reason(error)}") from error
            if attempt + 1 == NUM_TRIES:
                message = f"{shown(url)!r} cannot be read, tried {NUM_TRIES} times: {_reason(error)}"
                raise OutageError(message) from error
            if attempt == 0:
                _say_once_a_while(url, error)
        time.sleep(_FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _say_once_a_while(url: str, error: Exception) -> None:
    """Tell that a host does not answer and is tried again, and not for each of many objects."""
    host, now = urlsplit(shown(url)).netloc, time.monotonic()
    with _said_lock:
        if now - _said_at.get(host, -_SAID_AGAIN_S) < _SAID_AGAIN_S:
            return
        _said_at[host] = now
    _log.warning("%r cannot be read: %s; it is tried up to %d times", shown(url), _reason(error), NUM_TRIES)


def shown(url: str) -> str:
    """A URL without user, password and query, as messages may show it."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return url.partition("?")[0]


def _true_cause(error: Exception) -> Exception:
    """What fsspec's web client calls a missing file may be an outage."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return error if getattr(cause, "status", None) in (404, 410) else cause
    return error


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed."""
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status in (408, 429)
    return not isinstance(error, (*_FINAL, *_FINAL_BUGS))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such object"
    message = getattr(error, "message", None)
    if isinstance(getattr(error, "status", None), int):
        return f"the server answers {_status(error)} {message}"
    return f"{error}" or type(error).__name__


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error, as aiohttp, botocore and gcsfs note it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


async def _answers_ranges(system: Any, url: str) -> bool:
    session = await system.set_session()
    async with session.get(system.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
        return answer.status == 206


_timeouts: list[Any] = []  # one object, as fsspec tells file systems apart by their options
_timeouts_lock = threading.Lock()


def _http_timeout() -> Any:
    import aiohttp

    with _timeouts_lock:
        if not _timeouts:
            _timeouts.append(aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S))
    return _timeouts[0]
