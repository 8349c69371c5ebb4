"""From an image, whatever holds it, to a model's input: DALI's evaluation graph, one picture or many."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dali_pipelines.images import DecodeError, ImageDecoder
from dali_pipelines.transforms import Preprocess
from trainer.errors import UnusableDataError

Picture = Image.Image | Path | str | bytes
"""An open image, the path of a file, or a file's bytes."""


class Pixels:
    """A model's preprocessing as a function of images. Not thread-safe."""

    def __init__(self, preprocess: Preprocess, *, device: torch.device | None = None, batch_size: int = 32) -> None:
        """`device`: where DALI decodes and leaves its output; None: the CPU."""
        self.preprocess = preprocess
        self._device = device.index or 0 if device is not None and device.type == "cuda" else None
        self._batch_size = batch_size
        self._decoder: ImageDecoder | None = None  # on first use: its threads and memory are for those who decode

    def __call__(self, image: Picture) -> Tensor:
        """One image -> (3, H, W) float32.

        Raises:
            UnusableDataError: it cannot be read or decoded.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Picture]) -> Tensor:
        """Images -> (B, 3, H, W) float32.

        Raises:
            UnusableDataError: naming the first that cannot be read or decoded.
        """
        if self._decoder is None:
            self._decoder = ImageDecoder(self.preprocess, device=self._device, max_batch_size=self._batch_size)
        try:
            return self._decoder.decode([_encoded(image) for image in images])
        except DecodeError as error:
            raise UnusableDataError(f"{described(images[error.index], error.index)}: {error.reason}") from error


def described(image: Picture, place: int) -> str:
    """What to call an image in a message or an answer: its path, or its place among those given."""
    return str(image) if isinstance(image, str | Path) else f"image {place}"


def _encoded(image: Picture) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UnusableDataError(f"image {str(image)!r} cannot be read: {error.strerror}") from error
    file = io.BytesIO()
    image.convert("RGB").save(file, "PPM")
    return file.getvalue()
