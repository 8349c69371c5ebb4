"""One look at an image's bytes: whether it decodes, what it is, and by what its copies are found.

A JPEG is decoded once, by libjpeg-turbo, in grey and at the smallest scale that the hashes allow: every coefficient is
read, so damage anywhere shows, for less than half of what a full decode costs. libjpeg-turbo also tells of corrupt data
that Pillow decodes to grey or garbage without a word. Everything else is decoded in full by Pillow.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from dali_pipelines import pillow_images
from dali_pipelines.pillow_images import Exif, UnreadableImage
from dali_pipelines.validation.perceptual import GRID

DEFAULT_MAX_PIXELS = 178_956_970
"""What Pillow refuses to go beyond, as a decompression bomb."""

_SCALED_JPEG = {"JPEG", "MPO"}
_EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".mpo", ".jfif"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}


class Facts(NamedTuple):
    """What one look at an image finds."""

    reason: str = ""
    """Why it cannot be used; empty if it can."""
    remark: str = ""
    """What is odd about it all the same: corrupt data that a decoder passes over, an extension of another format."""
    width: int = 0
    """Pixels, as the decoder will see them."""
    height: int = 0
    decoder: str = ""
    """The road it takes, `dali` or `pillow`."""
    format: str = ""
    """As Pillow calls it."""
    mode: str = ""
    """As Pillow calls it."""
    num_bytes: int = 0
    content: bytes = bytes(16)
    """Hash of the bytes."""
    pixels: bytes = bytes(16)
    """Hash of the decoded pixels; of a JPEG, of its grey pixels at the smaller scale."""


PLAIN = np.zeros((GRID, GRID), np.uint8)
"""The thumbnail of what cannot be decoded."""


def look(
    content: bytes, *, name: str, exif: Exif = "ignore", max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Facts, np.ndarray]:
    """Examine an image: what it is, and a grey thumbnail of it, (32, 32) uint8.

    Args:
        name: what the file is called; its extension is compared with the format.
        exif: whether the size is that after EXIF rotation.
        max_pixels: a larger image cannot be used.
    """
    if not content:
        return Facts(reason="the file is empty"), PLAIN
    found = Facts(num_bytes=len(content), content=_hash(content))
    try:
        return _look_inside(content, found, name=name, exif=exif, max_pixels=max_pixels)
    except UnreadableImage as unreadable:
        return found._replace(reason=str(unreadable)), PLAIN


def _look_inside(content: bytes, found: Facts, *, name: str, exif: Exif, max_pixels: int) -> tuple[Facts, np.ndarray]:
    with pillow_images.opened(content) as image:
        facts = pillow_images.facts(image, exif)
        found = found._replace(
            width=facts.width,
            height=facts.height,
            decoder=facts.decoder,
            format=image.format or "",
            mode=image.mode,
            remark=_wrong_extension(name, image.format or ""),
        )
        num_pixels = facts.width * facts.height
        if num_pixels > max_pixels:
            size = f"{facts.width} x {facts.height} = {num_pixels:,} pixels"
            return found._replace(reason=f"too large: {size} are more than the limit of {max_pixels:,}"), PLAIN
        decoded, damage = _decoded(content, image)
    remark = "; ".join(part for part in (damage, found.remark) if part)
    pixels, grey = _pixels(decoded)
    small = grey.resize((GRID, GRID), Image.Resampling.BILINEAR, reducing_gap=2)
    return found._replace(remark=remark, pixels=pixels), np.asarray(small)


def _decoded(content: bytes, image: Image.Image) -> tuple[np.ndarray | Image.Image, str]:
    """The grey pixels of a JPEG, (h, w) uint8, or an image in full; and what libjpeg-turbo has to say against it."""
    if image.format not in _SCALED_JPEG or image.mode not in ("RGB", "L"):
        image.load()
        return image, ""
    try:
        return _grey_jpeg(content, strict=True), ""
    except ValueError as complaint:
        image.load()  # Pillow, the reference, has the last word on what can be decoded
        return image, _damage(content, complaint)


def _damage(content: bytes, complaint: ValueError) -> str:
    try:
        _grey_jpeg(content, strict=False)
    except ValueError:
        return ""  # a kind of JPEG that only Pillow decodes, such as one stored as RGB
    return f"damaged, though it decodes: {complaint}"


def _grey_jpeg(content: bytes, *, strict: bool) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        content, "GRAY", fastdct=False, fastupsample=False, min_height=GRID, min_width=GRID, strict=strict
    )
    return pixels[:, :, 0]


def _pixels(decoded: np.ndarray | Image.Image) -> tuple[bytes, Image.Image]:
    """The hash of what has been decoded, and a grey image of it."""
    if isinstance(decoded, Image.Image):
        colours = decoded if decoded.mode == "RGB" else decoded.convert("RGB")
        return _hash(b"RGB", _size(colours.size), colours.tobytes()), colours.convert("L")
    return _hash(b"JPEG", _size(decoded.shape), decoded.tobytes()), Image.fromarray(decoded)


def pixels_in_full(content: bytes) -> bytes:
    """Hash of an image's RGB pixels at full size.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    with pillow_images.opened(content) as image:
        colours = image.convert("RGB")
        return _hash(_size(colours.size), colours.tobytes())


def _wrong_extension(name: str, format_name: str) -> str:
    extension = os.path.splitext(name)[1].lower()
    known = _EXTENSIONS.get(format_name, set())
    every = set().union(*_EXTENSIONS.values())
    if not known or extension in known or extension not in every:
        return ""
    return f"a {format_name} file called {extension}"


def _size(size: tuple[int, ...]) -> bytes:
    return f"{size}".encode()


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.sha256(usedforsecurity=False)  # faster than others where the processor knows it
    for part in parts:
        digest.update(part)
    return digest.digest()[:16]
