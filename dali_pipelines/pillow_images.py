"""Pillow's part: what an image file is, whether it decodes, and the road of images that DALI decodes otherwise.

An image is what `Image.open(file).convert("RGB")` makes of it, as in torchvision's ImageFolder and in WebDataset. DALI
gives the same pixels for the common formats; the rest (GIF, CMYK, 16-bit grey, BMP, animated WebP, ...) is decoded here
and handed to the same graph as an uncompressed PPM file in memory, which DALI decodes by copying. open_clip's own
transform, given an image that is not RGB yet, converts it only after resizing: a palette is then resized without
interpolation and hidden colours fade with their alpha. That is not imitated: an image is RGB before anything else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps

Exif = Literal["ignore", "apply"]
Decoder = Literal["dali", "pillow"]

_DALI_MODES = {
    "JPEG": {"RGB", "L"},
    "MPO": {"RGB", "L"},  # JPEG with further pictures behind the first
    "PNG": {"RGB", "L", "P", "RGBA", "LA", "1"},
    "WEBP": {"RGB", "RGBA"},
    "TIFF": {"RGB", "L"},
    "PPM": {"RGB", "L"},
}
_ORIENTATION = 0x0112
_SIDEWAYS = {5, 6, 7, 8}


@dataclass(frozen=True)
class ImageFacts:
    """What the loader must know of an image before it is decoded."""

    width: int
    """Pixels, as the decoder will see them: after rotation where EXIF is applied."""
    height: int
    decoder: Decoder
    """The road the image takes."""


class UnreadableImage(ValueError):
    """A file is no image, is damaged, or is too large; the text says which."""


def inspect(source: Path | str | bytes, *, exif: Exif = "ignore", fully: bool = False) -> ImageFacts:
    """Read an image's header, and with `fully` decode all of it, so that damage is found.

    Raises:
        UnreadableImage: Pillow refuses the file.
    """
    with opened(source) as image:
        found = facts(image, exif)
        if fully:
            image.load()
        return found


@contextmanager
def opened(source: Path | str | bytes) -> Iterator[Image.Image]:
    """An image while it is open; what Pillow raises meanwhile becomes an UnreadableImage."""
    try:
        with Image.open(_opened(source)) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise almost any type on damaged data
        raise UnreadableImage(_reason(error)) from error


def as_ppm(source: Path | str | bytes, *, exif: Exif = "ignore") -> np.ndarray:
    """Decode with Pillow, convert to RGB and wrap the pixels as an uncompressed PPM file: (num_bytes,) uint8.

    Raises:
        UnreadableImage: Pillow refuses the file.
    """
    with opened(source) as image:
        upright = ImageOps.exif_transpose(image) if exif == "apply" else image
        pixels = upright.convert("RGB")
    return np.frombuffer(b"P6 %d %d 255\n" % pixels.size + pixels.tobytes(), np.uint8)


def facts(image: Image.Image, exif: Exif) -> ImageFacts:
    """What the loader must know, from the header of an image that is open."""
    turned_by_pillow = image.format == "TIFF"  # on loading, whatever `exif` says
    orientation = image.getexif().get(_ORIENTATION, 1) if exif == "apply" or turned_by_pillow else 1
    sideways = orientation in _SIDEWAYS and not turned_by_pillow
    width, height = reversed(image.size) if sideways else image.size
    return ImageFacts(width, height, _decoder(image, orientation))


def _decoder(image: Image.Image, orientation: int) -> Decoder:
    """Which road gives Pillow's pixels; the tests compare them for each format and mode."""
    if image.mode not in _DALI_MODES.get(image.format or "", set()):
        return "pillow"
    animated = image.format == "WEBP" and getattr(image, "is_animated", False)
    rescaled = image.format == "PPM" and image.tile[0].codec_name != "raw"
    rotated_elsewhere = orientation != 1 and image.format not in ("JPEG", "MPO")
    return "pillow" if animated or rescaled or rotated_elsewhere else "dali"


def _opened(source: Path | str | bytes) -> IO[bytes] | str:
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {str(error).partition(', could be')[0]}"
    return f"{error}" or type(error).__name__
