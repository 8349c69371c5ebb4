"""Conditional requests: entity tags, `If-None-Match`, `If-Match`, and answers that are files with ranges.

https://www.rfc-editor.org/rfc/rfc9110#name-conditional-requests
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Header, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from service.answers import json_answer
from service.errors import AttuneError
from service.schemas.base import ErrorAnswer

_TAG = re.compile(r'(?:W/)?"[^"]*"')
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*")

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "It is as `If-None-Match` says."}}
CHANGED: dict[int | str, dict[str, Any]] = {
    412: {"model": ErrorAnswer, "description": "It has changed since `If-Match`."}
}


class PreconditionFailed(AttuneError):
    """The thing is no longer as the caller knows it."""

    default_status = 412
    default_code = "precondition_failed"


class RangeNotSatisfiable(AttuneError):
    """A part of a file was asked for that lies behind its end."""

    default_status = 416
    default_code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"the range lies outside of the {size} bytes that there are", param="Range")
        self.size = size

    def headers(self) -> dict[str, str]:
        """How much there is."""
        return {"Content-Range": f"bytes */{self.size}"}


class Conditions:
    """What a request says about the state of the thing that it asks for or changes."""

    def __init__(self, if_match: str | None, if_none_match: str | None) -> None:
        self._if_match = if_match
        self._if_none_match = if_none_match

    def answer(self, found: BaseModel) -> Response:
        """What to return for a GET: the thing with its ETag, or 304 if the caller has it."""
        body = found.model_dump_json().encode()
        headers = {"ETag": _tag_of(body)}
        if self.is_known(headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return json_answer(body, headers=headers)

    def is_known(self, tag: str) -> bool:
        """Whether the caller has what carries this tag."""
        return self._if_none_match is not None and _matches(self._if_none_match, tag)

    def require(self, present: BaseModel) -> None:
        """Refuse to change a thing that is not as the caller knows it.

        Raises:
            PreconditionFailed: giving the ETag in force.
        """
        tag = etag_of(present)
        if self._if_match is not None and not _matches(self._if_match, tag):
            raise PreconditionFailed(f"it has changed: its ETag is {tag}, not {self._if_match}", param="If-Match")


async def _conditions(
    if_match: Annotated[str | None, Header(description="Go on only if the ETag is one of these.")] = None,
    if_none_match: Annotated[str | None, Header(description="Send nothing if the ETag is one of these.")] = None,
) -> Conditions:
    return Conditions(if_match, if_none_match)


TheConditions = Annotated[Conditions, Depends(_conditions)]


class RangeHeaders:
    """The headers of partial downloads; `file_answer` reads them."""

    RESPONSES: ClassVar[dict[int | str, dict[str, Any]]] = {
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        206: {
            "description": "The range that was asked for.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        416: {"model": ErrorAnswer, "description": "The range lies behind the end."},
        **NOT_MODIFIED,
    }

    def __init__(self, range: str | None, if_range: str | None) -> None:
        self.range = range
        self.if_range = if_range


async def _range_headers(
    range_: Annotated[str | None, Header(alias="Range", description="One range: `bytes=FIRST-LAST`.")] = None,
    if_range: Annotated[str | None, Header(description="Send the range only if this is the ETag.")] = None,
) -> RangeHeaders:
    return RangeHeaders(range_, if_range)


TheRange = Annotated[RangeHeaders, Depends(_range_headers)]


def etag_of(thing: BaseModel) -> str:
    """The strong entity tag of a representation."""
    return _tag_of(thing.model_dump_json().encode())


def _tag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def file_etag(path: Path) -> str:
    """A strong entity tag of a file that is replaced as a whole or grows, by its size, time and place on the disk."""
    found = path.stat()
    return f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'


def file_answer(
    request: Request,
    path: Path,
    *,
    filename: str,
    etag: str,
    conditions: Conditions,
    asked: RangeHeaders,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A file, one range of it, or 304. A Range header that is none, or names several, is passed over.

    Raises:
        RangeNotSatisfiable: the range lies behind the end.
    """
    if conditions.is_known(etag):
        return Response(status_code=304, headers={"ETag": etag})
    status = os.stat(path)
    wanted = _wanted(asked, etag=etag, size=status.st_size)
    kept = [pair for pair in request.scope["headers"] if pair[0] not in (b"range", b"if-range")]
    request.scope["headers"] = [*kept, (b"range", wanted.encode())] if wanted else kept
    return FileResponse(
        path,
        stat_result=status,
        filename=filename,
        media_type="application/octet-stream",
        headers={"ETag": etag, "X-Content-Type-Options": "nosniff", **(headers or {})},
    )


def _wanted(asked: RangeHeaders, *, etag: str, size: int) -> str | None:
    """The range to send; None for the whole."""
    match = _RANGE.fullmatch(asked.range or "")
    if match is None or (asked.if_range is not None and asked.if_range != etag):
        return None
    first, last = (int(group) if group else None for group in match.groups())
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        return None  # no range at all, which is to be passed over
    if size == 0 or (first is None and last == 0) or (first is not None and first >= size):
        raise RangeNotSatisfiable(size)
    return f"bytes={'' if first is None else first}-{'' if last is None else last}"


def _matches(header: str, tag: str) -> bool:
    return header.strip() == "*" or tag in (given.removeprefix("W/") for given in _TAG.findall(header))
