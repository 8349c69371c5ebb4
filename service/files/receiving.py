"""Multipart forms with one file in them, written to disk as they arrive: the file is never in memory as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.errors import InvalidRequest, PayloadTooLarge

_FLUSH_BYTES = 1024 * 1024
_MAX_FIELD_BYTES = 64 * 1024
_MAX_PARTS = 32


@dataclass(frozen=True)
class Received:
    """What a form held."""

    fields: dict[str, str]
    filename: str
    num_bytes: int
    sha256: str


@dataclass
class _Part:
    """A part of the form as its headers announce it."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None


class _Form:
    """Sorts what the parser finds into fields and the bytes of the file, which wait in `pending`."""

    def __init__(self, file_field: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.pending = bytearray()
        self.is_whole = False
        self._file_field = file_field
        self._part = _Part()
        self._value = bytearray()
        self._header = [bytearray(), bytearray()]
        self._num_parts = 0

    def parser(self, boundary: bytes) -> MultipartParser:
        """A parser that tells this form what it finds."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def _finish(self) -> None:
        self.is_whole = True

    def _begin(self) -> None:
        self._part, self._value = _Part(), bytearray()
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS} fields")

    def _end_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._part.headers[name.lower()] = value
        self._header = [bytearray(), bytearray()]

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        self._part.name = options.get(b"name", b"").decode("utf-8", errors="replace")
        if self._part.name != self._file_field:
            return
        if self.filename is not None:
            raise InvalidRequest(f"the form holds {self._file_field!r} twice", param=self._file_field)
        self.filename = options.get(b"filename", b"").decode("utf-8", errors="replace")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == self._file_field:
            self.pending += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"the field is longer than {_MAX_FIELD_BYTES} bytes", param=self._part.name)

    def _end(self) -> None:
        if self._part.name != self._file_field:
            self.fields[self._part.name] = self._value.decode("utf-8", errors="replace")


async def receive(request: Request, into: Path, *, file_field: str, max_bytes: int) -> Received:
    """Write the file in the field `file_field` of a multipart form to `into`.

    Raises:
        InvalidRequest: the body is no such form.
        PayloadTooLarge: the file has more than `max_bytes`.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        message = f"send a multipart form with a file in the field {file_field!r}"
        raise InvalidRequest(message, param=file_field, code="invalid_form")
    form = _Form(file_field)
    digest, num_bytes = hashlib.sha256(), 0
    with into.open("wb") as file:
        async for chunk in _file_bytes(request, form, options[b"boundary"]):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise PayloadTooLarge(f"the file has more than {max_bytes} bytes", param=file_field)
            await asyncio.to_thread(_write, chunk, file, digest)
        await asyncio.to_thread(_settle, file)
    if form.filename is None:
        raise InvalidRequest("this field is required, as a file", param=file_field, code="invalid_form")
    return Received(form.fields, form.filename, num_bytes, digest.hexdigest())


async def _file_bytes(request: Request, form: _Form, boundary: bytes) -> AsyncIterator[bytes]:
    """The file's bytes, a megabyte or so at a time."""
    try:
        parser = form.parser(boundary)
        async for data in request.stream():
            parser.write(data)
            if len(form.pending) >= _FLUSH_BYTES:
                yield bytes(form.pending)
                form.pending.clear()
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the form cannot be read: {error}", code="invalid_form") from None
    except ClientDisconnect:
        raise InvalidRequest("the connection broke off before the form was whole", code="invalid_form") from None
    if not form.is_whole:
        raise InvalidRequest("the form ends before its last boundary", code="invalid_form")
    if form.pending:
        yield bytes(form.pending)


def _settle(file: IO[bytes]) -> None:
    """What a row tells of must be there after a power cut, too."""
    file.flush()
    os.fsync(file.fileno())


def _write(chunk: bytes, file: IO[bytes], digest: hashlib._Hash) -> None:
    file.write(chunk)
    digest.update(chunk)
