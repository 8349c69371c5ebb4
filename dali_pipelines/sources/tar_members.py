"""The members of a tar file and where their bytes lie, without reading them.

A few times faster than `tarfile`, as it looks only at names and sizes, of the plain files that ustar, GNU and pax
archives hold. https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

BLOCK = 512
_LONGEST_PADDING = 1 << 20
_PLAIN_FILE = frozenset([b"0", b"\0", b"7"])
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_MAX_HEADER_BYTES = 1 << 20
_NUMBER = re.compile(rb"[0-7]+")


class Member(NamedTuple):
    """A plain file in an archive."""

    name: str
    offset: int
    """Its first byte in the archive."""
    length: int


class DamagedTar(ValueError):
    """An archive ends too early or is none; the text says where and which member was the last good one."""


def members(path: Path | str) -> Iterator[Member]:
    """The plain files of an uncompressed tar file, in their order.

    Raises:
        DamagedTar: it is truncated, compressed or no tar file.
        OSError: it cannot be read.
    """
    last = "none"
    with open(path, "rb") as file:
        try:
            for member in _members(file, size=file.seek(0, 2)):
                last = member.name
                yield member
        except DamagedTar as damage:
            raise DamagedTar(f"{damage}; the last good member is {last!r}") from None


def _members(file: IO[bytes], *, size: int) -> Iterator[Member]:
    position, long_name, extended = 0, None, {}
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if not header.strip(b"\0"):
            _require_end(file, header, position, is_complete=long_name is None and not extended)
            return
        kind, length = _kind_and_length(header, position)
        start = position + BLOCK
        if kind in _PLAIN_FILE:
            length = int(extended.get("size", length))
        if start + length > size:
            raise DamagedTar(f"it is truncated: {size} bytes, and a member goes up to byte {start + length}")
        position = start + -(-length // BLOCK) * BLOCK
        if kind == b"L":
            long_name = _text(_header_data(file, length))
        elif kind == b"x":
            extended = _records(_header_data(file, length))
        elif kind not in (b"g", b"K"):
            name = extended.get("path") or long_name or _name(header)
            if kind in _PLAIN_FILE and not name.endswith("/"):
                yield Member(name, start, length)
            long_name, extended = None, {}


def _require_end(file: IO[bytes], header: bytes, position: int, *, is_complete: bool) -> None:
    """Refuse an end that a whole archive does not have: what is cut between two members would else be lost unseen."""
    if not header:
        raise DamagedTar(f"it ends at byte {position} without the empty blocks that end a tar, so it may be cut")
    if not is_complete or file.read(_LONGEST_PADDING).strip(b"\0"):
        raise DamagedTar(f"it has an empty block at byte {position}, before its end")


def _kind_and_length(header: bytes, position: int) -> tuple[bytes, int]:
    if position == 0 and header.startswith(_COMPRESSED):
        raise DamagedTar("it is compressed")
    if len(header) < BLOCK:
        raise DamagedTar(f"it is truncated in the middle of a header, at byte {position}")
    checksum = _number(header[148:156])
    if checksum != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise DamagedTar(f"there is no tar header at byte {position}")
    kind, length = header[156:157], _number(header[124:136])
    if length is None or kind == b"S":
        raise DamagedTar(f"the member at byte {position} is {'sparse' if kind == b'S' else 'of no length'}")
    return kind, 0 if kind in b"123456" else length


def _number(field: bytes) -> int | None:
    if field[0] & 0x80:  # GNU's way to write what octal digits have no room for
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = _NUMBER.search(field)
    return int(digits[0], 8) if digits else None


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _header_data(file: IO[bytes], length: int) -> bytes:
    if length > _MAX_HEADER_BYTES:
        raise DamagedTar(f"a member's extended header has {length} bytes")
    return file.read(length)


def _records(data: bytes) -> dict[str, str]:
    """A pax header's `LENGTH KEY=VALUE` lines."""
    found = {}
    while data.strip(b"\0"):
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise DamagedTar("a member's pax header cannot be read")
        key, _, value = rest[: int(length) - len(b"%s " % length)].rstrip(b"\n").partition(b"=")
        found[_text(key)] = _text(value)
        data = data[int(length) :]
    return found


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", errors="backslashreplace")
