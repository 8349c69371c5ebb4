"""Encoded images in memory, as an inference server receives them, through the evaluation graph."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from dali_pipelines import graphs, pillow_images
from dali_pipelines.pillow_images import ImageFacts, UnreadableImage
from dali_pipelines.stream import default_num_threads, run
from dali_pipelines.transforms import Preprocess, resize_regions


class DecodeError(ValueError):
    """One of the images cannot be decoded.

    Attributes:
        index: its place among the images given.
        reason: what is wrong with it.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index, self.reason = index, reason
        super().__init__(f"image {index} cannot be decoded: {reason}")


class ImageDecoder:
    """Turns encoded bytes into a model's input, as the evaluation loader does with files. Not thread-safe."""

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        device: int | None = None,
        max_batch_size: int = 32,
        num_threads: int | None = None,
        hardware_load: float = 0.65,
    ) -> None:
        self._preprocess = preprocess
        self._device, self._hardware_load = device, hardware_load
        self._max_batch_size = max_batch_size
        self._num_threads = num_threads or default_num_threads(1)
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="pillow")
        self._inputs: list[Any] = []
        self._start()

    def decode(self, images: Sequence[bytes]) -> torch.Tensor:
        """Decode and preprocess: (B, 3, H, W) float32 on the device, in the order given.

        Raises:
            DecodeError: naming the first image that is none, is damaged, or is too large.
        """
        side = self._preprocess.image_size
        target = "cpu" if self._device is None else f"cuda:{self._device}"
        tensors = [torch.empty((0, 3, side, side), device=target)]
        for start in range(0, len(images), self._max_batch_size):
            tensors.append(self._decode_batch(images[start : start + self._max_batch_size], start))
        return torch.cat(tensors)

    def close(self) -> None:
        """Free the pipeline's memory and threads."""
        self._pool.shutdown()
        self._pipeline = None

    def _start(self) -> None:
        self._pipeline = graphs.build(
            graphs.evaluation(self._preprocess, device=self._device, hardware_load=self._hardware_load),
            graphs.evaluation_inputs(from_files=False, any_in_memory=False),
            lambda: self._inputs,
            batch_size=self._max_batch_size,
            device=self._device,
            num_threads=self._num_threads,
            prefetch_batches=1,
        )

    def _decode_batch(self, images: Sequence[bytes], start: int) -> torch.Tensor:
        encoded, sizes = [], []
        for place, prepared in enumerate(self._pool.map(self._prepare, images)):
            if isinstance(prepared, UnreadableImage):
                raise DecodeError(start + place, str(prepared))
            encoded.append(prepared[0])
            sizes.append((prepared[1].width, prepared[1].height))
        try:
            return self._run(encoded, np.array(sizes))
        except RuntimeError:
            # DALI fails a batch as a whole; Pillow, the reference, has the last word on each image.
            self._start()
            return self._run(self._all_through_pillow(images, start), np.array(sizes))

    def _run(self, encoded: list[np.ndarray], sizes: np.ndarray) -> torch.Tensor:
        self._inputs = [encoded, *resize_regions(sizes, self._preprocess)]
        return run(self._pipeline, self._device)

    def _prepare(self, image: bytes) -> tuple[np.ndarray, ImageFacts] | UnreadableImage:
        exif = self._preprocess.exif
        try:
            facts = pillow_images.inspect(image, exif=exif)
            if facts.decoder == "pillow":
                return pillow_images.as_ppm(image, exif=exif), facts
        except UnreadableImage as unreadable:
            return unreadable
        return np.frombuffer(image, np.uint8), facts

    def _all_through_pillow(self, images: Sequence[bytes], start: int) -> list[np.ndarray]:
        encoded = []
        for place, image in enumerate(images):
            try:
                encoded.append(pillow_images.as_ppm(image, exif=self._preprocess.exif))
            except UnreadableImage as unreadable:
                raise DecodeError(start + place, str(unreadable)) from unreadable
        return encoded
