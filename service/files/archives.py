"""Unpacks .zip, .tar and .tar.gz archives that strangers made.

Nothing is taken from an archive but plain files and folders, under names below its own folder, and no more of them than
allowed: an archive of a few kilobytes can claim to hold a petabyte, or to hold `../../etc/passwd`.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

_CHUNK_BYTES = 1024 * 1024
_SMALL_BYTES = 16 * _CHUNK_BYTES
_MAX_DEPTH = 32  # what removes folders calls itself once a level
_MAX_PATH_BYTES = 1024
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_ENDINGS = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar"}
_LITTER = frozenset({"__MACOSX", ".DS_Store"})


class ArchiveError(Exception):
    """An archive that is not unpacked; the text says why."""


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold."""

    max_files: int
    max_bytes: int
    max_ratio: float
    """Unpacked bytes for each byte of the archive; no matter below 16 MiB."""


@dataclass(frozen=True)
class _Entry:
    """A file or folder that an archive claims to hold."""

    name: str
    size: int
    """As announced."""
    content: IO[bytes] | None = None
    """None for a folder."""


def is_archive(filename: str) -> bool:
    """Whether a file of this name is unpacked."""
    return _kind(filename) is not None


@dataclass(frozen=True)
class Unpacked:
    """What an archive held."""

    num_files: int
    num_bytes: int


def unpack(archive: Path, into: Path, *, limits: ArchiveLimits) -> Unpacked:
    """Unpack `archive` into the new folder `into`.

    Raises:
        ArchiveError: it is broken, encrypted or too large, or holds a link, a device or a name that leads elsewhere.
    """
    into.mkdir()
    entries = _zip_entries(archive) if _kind(archive.name) == "zip" else _tar_entries(archive)
    room = min(limits.max_bytes, max(_SMALL_BYTES, int(limits.max_ratio * archive.stat().st_size)))
    count, used = 0, 0
    try:
        for entry in entries:
            count += 1
            if count > limits.max_files:
                raise ArchiveError(f"the archive holds more than {limits.max_files} files and folders")
            target = _target(entry.name, into)
            used += entry.size if target is None else _write(entry, target, room=room - used)
            if used > room:
                raise ArchiveError(f"the archive unpacks to more than {room} bytes, which is more than allowed")
    except _BROKEN as error:
        raise ArchiveError(f"the archive is broken or of a kind that is not read: {error}") from None
    if count == 0:
        raise ArchiveError("the archive is empty")
    return Unpacked(count, used)


def _kind(filename: str) -> str | None:
    return next((kind for ending, kind in _ENDINGS.items() if filename.lower().endswith(ending)), None)


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"the archive holds {info.filename!r}, which is neither a file nor a folder")
            if info.flag_bits & 1:
                raise ArchiveError(f"the archive holds {info.filename!r}, which is encrypted")
            if info.is_dir():
                yield _Entry(info.filename, 0)
                continue
            with opened.open(info) as content:
                yield _Entry(info.filename, info.file_size, content)


def _tar_entries(archive: Path) -> Iterator[_Entry]:
    with tarfile.open(archive, "r:*") as opened:
        while (member := opened.next()) is not None:
            if not member.isdir() and not member.isreg():
                raise ArchiveError(f"the archive holds {member.name!r}, which is neither a file nor a folder")
            content = opened.extractfile(member) if member.isreg() else None
            opened.members = []  # type: ignore[attr-defined]  # else it remembers every member
            yield _Entry(member.name, member.size, content)


def _target(name: str, into: Path) -> Path | None:
    """Where an entry goes; None for what is left out.

    Raises:
        ArchiveError: the name leads elsewhere.
    """
    path = PurePosixPath(name)
    parts = path.parts
    elsewhere = path.is_absolute() or ".." in parts or "\0" in name or "\\" in name or parts[:1] == ("~",)
    if elsewhere or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise ArchiveError(f"the archive holds the name {name[:200]!r}, which leads out of its folder or is no name")
    if len(parts) > _MAX_DEPTH or len(name.encode(errors="surrogateescape")) > _MAX_PATH_BYTES:
        limits = f"{_MAX_DEPTH} folders deep and {_MAX_PATH_BYTES} bytes long"
        raise ArchiveError(f"the archive holds the name {name[:80]!r}...; names may be {limits}")
    if not parts or _LITTER.intersection(parts) or parts[-1].startswith("._"):
        return None
    return into.joinpath(*parts)


def _write(entry: _Entry, target: Path, *, room: int) -> int:
    """Write one entry, but not much more than `room` bytes, and say how many bytes it has."""
    try:
        if entry.content is None:
            target.mkdir(parents=True, exist_ok=True)
            return 0
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with target.open("xb") as file:  # nothing in an archive replaces anything
            while chunk := entry.content.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > room:
                    break
                file.write(chunk)
        return written
    except (FileExistsError, NotADirectoryError):
        raise ArchiveError(f"the archive holds {entry.name!r} twice, or as a file and as a folder") from None
    except (OSError, UnicodeError) as error:
        raise ArchiveError(f"cannot unpack {entry.name!r}: {error}") from None
