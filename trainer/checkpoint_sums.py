"""Whether the files of a checkpoint are what was written: their sizes and CRC-32 sums, which its record holds.

safetensors notices a file that was cut off, but no number that has changed. Each rank sums a share of the files.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from pydantic import BaseModel

from trainer.distributed import cpu_group

_CHUNK_BYTES = 1 << 24
_Value = TypeVar("_Value")


class FileSum(BaseModel):
    """What a file must be."""

    num_bytes: int
    crc32: int


def sum_files(folder: Path) -> dict[str, FileSum]:
    """Sums of all files below `folder`, by their path in it. All ranks must call it, after all have written."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return _over_ranks({name: _sum_file(folder / name) for name in _own(names)})


def find_damage(folder: Path, sums: Mapping[str, FileSum]) -> str | None:
    """What is wrong with the first file that is not what was written, or None. All ranks must call it, where there are.

    Raises:
        OSError: a file is there and cannot be read, on the ranks that tried.
    """
    found = _over_ranks(
        {name: problem for name in _own(sorted(sums)) if (problem := _damage(folder / name, sums[name]))}
    )
    return next((f"{name} {found[name]}" for name in sorted(found)), None)


def _own(names: Sequence[str]) -> Sequence[str]:
    return names[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else names


def _over_ranks(mine: dict[str, _Value]) -> dict[str, _Value]:
    if not dist.is_initialized():
        return mine
    parts: list[dict[str, _Value]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, mine, group=cpu_group())
    return {name: value for part in parts for name, value in part.items()}


def _damage(path: Path, expected: FileSum) -> str | None:
    try:
        there = _sum_file(path)
    except FileNotFoundError:
        return "is missing"
    if there.num_bytes != expected.num_bytes:
        return f"has {there.num_bytes} of {expected.num_bytes} bytes"
    return None if there == expected else "has other content than was written"


def _sum_file(path: Path) -> FileSum:
    crc32, num_bytes = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc32, num_bytes = zlib.crc32(chunk, crc32), num_bytes + len(chunk)
    return FileSum(num_bytes=num_bytes, crc32=crc32)
