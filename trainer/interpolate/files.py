"""The line between two exports, from file to file: memory holds a few tensors of it at a time, never a whole model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.interpolate.tensor_files import Layout, TensorFile, write_tensors
from trainer.interpolation import (
    FISHER_FLOOR,
    InterpolationError,
    blend_tensor,
    blend_tensor_by_fisher,
    check_alpha,
    common_dtype,
    refuse_differing,
)

WEIGHT_FILES = {"clip": "open_clip_model.safetensors", "classifier": "model.safetensors"}
"""Name of the weights by task, as open_clip and timm look for them."""


@dataclass(frozen=True)
class FisherPair:
    """The diagonal Fisher information of both models."""

    start: TensorFile
    tuned: TensorFile
    floor: float = FISHER_FLOOR

    @classmethod
    def open(cls, start: Path, tuned: Path, *, floor: float, shapes: dict[str, tuple[int, ...]]) -> FisherPair:
        """Open both files, for models of the given shapes.

        Raises:
            InterpolationError: they cover different weights, or weights that the models do not have.
        """
        pair = cls(TensorFile.open(start), TensorFile.open(tuned), floor)
        refuse_differing(pair.start.shapes, pair.tuned.shapes, what="Fisher files")
        strange = sorted(name for name, shape in pair.start.shapes.items() if shapes.get(name) != shape)
        if strange:
            raise InterpolationError(f"{start} is no Fisher file of these models; they lack {', '.join(strange[:5])}")
        return pair


@dataclass(frozen=True)
class Line:
    """Two files of weights and what lies between them."""

    start: TensorFile
    tuned: TensorFile
    fishers: FisherPair | None = None

    @classmethod
    def between(
        cls, start: Path, tuned: Path, *, fishers: tuple[Path, Path] | None = None, fisher_floor: float = FISHER_FLOOR
    ) -> Line:
        """Open both files, and with `fishers` their Fisher information.

        Raises:
            InterpolationError: a file cannot be read, or they do not correspond; what differs is named.
        """
        line = cls(TensorFile.open(start), TensorFile.open(tuned))
        refuse_differing(line.start.shapes, line.tuned.shapes)
        if fishers is None:
            return line
        return cls(line.start, line.tuned, FisherPair.open(*fishers, floor=fisher_floor, shapes=line.tuned.shapes))

    def write(self, path: Path, *, alpha: float) -> None:
        """Write the weights at `alpha`."""
        check_alpha(alpha)
        layouts = {name: self._layout(name) for name in self.tuned.layouts}
        write_tensors(path, layouts, self._tensors(alpha))

    def _layout(self, name: str) -> Layout:
        start, tuned = self.start.layouts[name], self.tuned.layouts[name]
        return Layout(common_dtype(start.dtype, tuned.dtype), tuned.shape)

    def _tensors(self, alpha: float) -> Iterator[tuple[str, Tensor]]:
        for name in self.tuned.layouts:
            yield name, self._tensor(name, alpha)

    def _tensor(self, name: str, alpha: float) -> Tensor:
        start, tuned = self.start.read(name), self.tuned.read(name)
        if self.fishers is None or name not in self.fishers.start.layouts:
            return blend_tensor(start, tuned, alpha=alpha)
        return blend_tensor_by_fisher(
            start,
            tuned,
            alpha=alpha,
            start_fisher=self.fishers.start.read(name),
            tuned_fisher=self.fishers.tuned.read(name),
            floor=self.fishers.floor,
        )


def largest_dtype(file: TensorFile) -> torch.dtype:
    """The floating type that most of the file's bytes have."""
    sizes: dict[torch.dtype, int] = {}
    for layout in file.layouts.values():
        if layout.dtype.is_floating_point:
            sizes[layout.dtype] = sizes.get(layout.dtype, 0) + layout.num_bytes
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else torch.float32
