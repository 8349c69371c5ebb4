"""Fetches an object into the cache: in one go or in blocks, going on where an earlier transfer broke off."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO

from dali_pipelines.storage.errors import CacheTooSmallError, StorageError
from dali_pipelines.storage.remote import BLOCK_BYTES, ObjectInfo, Remote, patiently, shown
from dali_pipelines.storage.room import Room


def fetch(remote: Remote, info: ObjectInfo, path: Path, *, room: Room, record: Path, spare_recent: bool) -> bool:
    """Put an object at `path`, whole or not at all; one process fetches it while others wait.

    Args:
        record: a file beside it that will say which version was fetched last.
        spare_recent: rather not fetch than remove what was used since this process began.

    Returns:
        Whether it is there now.

    Raises:
        CacheTooSmallError: it is larger than the cache may be.
        StorageError: it cannot be fetched, or there is no room for it.
    """
    what, facts = repr(shown(remote.url)), {"name": path.name, "url": shown(remote.url), "version": info.version}
    with room.making(path.name) as partial:
        if path.exists():
            return True
        size = info.size or 0
        if not room.begin(partial, num_bytes=size, version=info.version, what=what, spare_recent=spare_recent):
            return False
        try:
            _download(remote, info, partial, room.max_bytes)
        except CacheTooSmallError:
            room.abandon(partial)
            raise
        room.publish(partial, path, what=what, record=record, facts=facts)
    return True


def _download(remote: Remote, info: ObjectInfo, partial: Path, max_bytes: int) -> None:
    if info.size is None or info.size <= BLOCK_BYTES or not remote.has_ranges:
        patiently(lambda: _in_one_go(remote, info.size, partial, max_bytes), remote.url)
        return
    with partial.open("ab") as file:
        for block in remote.blocks(info.size, start=file.tell()):
            _write(file, block)
    if remote.info() != info:
        partial.unlink()
        raise StorageError(f"{shown(remote.url)!r} changed while it was fetched")


def _in_one_go(remote: Remote, size: int | None, partial: Path, max_bytes: int) -> None:
    with partial.open("wb") as file:
        for block in remote.blocks(size):
            if file.tell() + len(block) > max_bytes:
                raise CacheTooSmallError(repr(shown(remote.url)), needed=file.tell() + len(block), allowed=max_bytes)
            _write(file, block)
        got = file.tell()
    if size is not None and got != size:
        raise ConnectionError(f"the transfer ended after {got} of {size} bytes")


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"the disk of the cache is full: {file.name!r} cannot be written") from error
        raise
