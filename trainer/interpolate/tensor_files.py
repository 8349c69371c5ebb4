"""safetensors files read and written one tensor at a time, so that memory never holds a whole model.

The format is eight bytes of header length, a JSON header of types, shapes and offsets, and the tensors end to end:
https://huggingface.co/docs/safetensors/index#format. The library writes only what is in memory as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.interpolation import InterpolationError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class Layout:
    """What a file says of a tensor before one reads it."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose tensors stay on the disk until they are asked for."""

    path: Path
    layouts: dict[str, Layout]

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Read the header.

        Raises:
            InterpolationError: it is missing or no safetensors file, or holds a type that is not known here.
        """
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
                layouts = {n: Layout(_TYPES[s.get_dtype()], tuple(s.get_shape())) for n, s in slices.items()}
        except (OSError, SafetensorError) as error:
            raise InterpolationError(f"{path} cannot be read as safetensors: {error}") from None
        except KeyError as error:
            raise InterpolationError(f"{path} holds tensors of type {error}; known are {', '.join(_TYPES)}") from None
        return cls(path, layouts)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
        return {name: layout.shape for name, layout in self.layouts.items()}

    def read(self, name: str) -> Tensor:
        """One tensor. The memory map goes with it: nothing of the file stays resident."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)


def write_tensors(path: Path, layouts: Mapping[str, Layout], tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Write a safetensors file from tensors as they come, each under its name and as `layouts` announces it.

    Raises:
        ValueError: a tensor is missing, unknown, or not as announced.
    """
    header, offsets = _header(layouts)
    missing = set(layouts)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        for name, tensor in tensors:
            if layouts.get(name) != Layout(tensor.dtype, tuple(tensor.shape)):
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}; announced was {layouts.get(name)}")
            file.seek(start + offsets[name])
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
            missing.discard(name)
    if missing:
        raise ValueError(f"no tensor came for {', '.join(sorted(missing))}")


def _header(layouts: Mapping[str, Layout]) -> tuple[bytes, dict[str, int]]:
    """The JSON header, padded so that tensors are aligned, and where each begins behind it.

    Wide types come first, as the library has it, which aligns every tensor.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, position = {}, 0
    for name, layout in sorted(layouts.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        end = position + layout.num_bytes
        entries[name] = {
            "dtype": _NAMES[layout.dtype],
            "shape": list(layout.shape),
            "data_offsets": [position, end],
        }
        offsets[name], position = position, end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _ALIGNMENT), offsets
