"""Tensors by the names of parameters, in safetensors files that several ranks write side by side.

    master-rank-0.safetensors, master-rank-1.safetensors     fp32 weights
    exp_avg-rank-0.safetensors ...                           what the optimizer remembers, a family of files a kind

An entry is called like its parameter and has its shape. Where a parameter lies on several ranks, each writes the part
that it holds as `NAME@START`: numbers from START on of the flattened parameter. Who wrote what does not matter to a
reader, which asks for any stretch of any parameter.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_FILE = re.compile(r"(?P<kind>.+)-rank-\d+\.safetensors")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SHAPES = "shapes"  # in a file's metadata: JSON of the whole shapes of the parameters that it holds parts of


@dataclass(frozen=True)
class Part:
    """A stretch of a flattened parameter, or all of it."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    values: Tensor
    """Flat."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the parameter lies elsewhere."""
        return self.start == 0 and self.values.numel() == torch.Size(self.shape).numel()


def write_parts(folder: Path, kind: str, parts: Iterable[Part], *, rank: int) -> None:
    """Write what this rank holds of one kind; no file if that is nothing."""
    entries, shapes = {}, {}
    for part in parts:
        values = part.values.detach().cpu()
        if part.is_whole:
            entries[part.name] = values.reshape(part.shape).contiguous()
        else:
            entries[f"{part.name}@{part.start}"] = values.contiguous()
            shapes[part.name] = list(part.shape)
    if entries:
        save_file(entries, folder / f"{kind}-rank-{rank}.safetensors", metadata={_SHAPES: json.dumps(shapes)})


@dataclass(frozen=True)
class _Stored:
    file: Any
    entry: str
    start: int
    count: int


class ParameterFiles:
    """Reads what `write_parts` wrote, on however many ranks."""

    def __init__(self, folder: Path) -> None:
        """Only headers are read here.

        Raises:
            FileNotFoundError: there is nothing in `folder`.
        """
        self._stored: dict[str, dict[str, list[_Stored]]] = defaultdict(lambda: defaultdict(list))
        self._shapes: dict[str, tuple[int, ...]] = {}
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"{folder} holds no safetensors file")
        for path in paths:
            if match := _FILE.fullmatch(path.name):
                self._index(path, match["kind"])

    def _index(self, path: Path, kind: str) -> None:
        file = safe_open(path, framework="pt")
        shapes = json.loads((file.metadata() or {}).get(_SHAPES, "{}"))
        for entry in file.keys():  # noqa: SIM118  it is no mapping
            name, _, start = entry.partition("@")
            shape = file.get_slice(entry).get_shape()
            self._shapes.setdefault(name, tuple(shapes.get(name, shape)))
            self._stored[kind][name].append(_Stored(file, entry, int(start or 0), torch.Size(shape).numel()))

    def kinds(self) -> list[str]:
        """The kinds that there are."""
        return sorted(self._stored)

    def names(self, kind: str) -> list[str]:
        """The parameters that there is something of."""
        return sorted(self._stored.get(kind, ()))

    def has(self, kind: str, name: str) -> bool:
        """Whether there is anything of this kind for a parameter."""
        return name in self._stored.get(kind, ())

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole shape of a parameter."""
        return self._shapes[name]

    def dtype(self, kind: str, names: Sequence[str]) -> torch.dtype:
        """The numbers' type for the first of `names` that is there."""
        stored = next(self._stored[kind][name][0] for name in names if self.has(kind, name))
        return _DTYPES[stored.file.get_slice(stored.entry).get_dtype()]

    def read_into(self, target: Tensor, kind: str, name: str, *, start: int) -> None:
        """Fill the flat `target` with a parameter's numbers from `start` on.

        Raises:
            ValueError: some of them are missing; the text names the parameter.
        """
        stop, filled = start + target.numel(), 0
        for stored in self._stored[kind][name]:
            first, last = max(start, stored.start), min(stop, stored.start + stored.count)
            if first < last:
                values = stored.file.get_tensor(stored.entry).reshape(-1)[first - stored.start : last - stored.start]
                target[first - start : last - start].copy_(values)
                filled += last - first
        if filled != target.numel():
            raise ValueError(f"{kind} of {name}: {filled} of {target.numel()} numbers from {start} on are there")

    def whole(self, kind: str, name: str) -> Tensor:
        """A parameter in its shape.

        Raises:
            ValueError: some of it is missing.
        """
        shape = self._shapes[name]
        flat = torch.empty(torch.Size(shape).numel(), dtype=self.dtype(kind, [name]))
        self.read_into(flat, kind, name, start=0)
        return flat.reshape(shape)
