"""Images as callers send them: checked by their size and header alone, before any pixel is decoded.

Base64 text and `data:` URIs are measured before they are decoded; Pillow then reads the header. URLs are refused:
the service fetches nothing on a caller's behalf.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from service.errors import InvalidRequest, PayloadTooLarge
from service.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WHITESPACE = str.maketrans("", "", " \t\r\n")


@dataclass(frozen=True)
class ImageLimits:
    """How much a caller may send."""

    max_bytes: int
    """Encoded bytes of one image."""
    max_pixels: int
    """Width times height of one image."""
    max_images: int
    """Images in one request."""

    @classmethod
    def of(cls, settings: Settings) -> ImageLimits:
        """The limits that `settings` name."""
        return cls(settings.max_image_bytes, settings.max_image_pixels, settings.max_images_per_request)


class EncodedImage(NamedTuple):
    """An image that passed the checks."""

    data: bytes
    """The bytes of its file."""
    num_pixels: int
    """Width times height, by its header."""


def check_count(num_images: int, *, limits: ImageLimits, param: str = "images") -> None:
    """Refuse no images (400) and too many (413)."""
    if num_images == 0:
        raise InvalidRequest("send at least one image", param=param, code="no_image")
    if num_images > limits.max_images:
        message = f"{num_images} images in one request; at most {limits.max_images} are allowed"
        raise PayloadTooLarge(message, param=param, code="too_many_images")


def images_from_text(texts: Sequence[str], *, limits: ImageLimits, param: str = "images") -> list[EncodedImage]:
    """Checked images from base64 text or `data:` URIs.

    Raises:
        InvalidRequest: 400, one is no base64, no image of an accepted format, or a URL.
        PayloadTooLarge: 413, there are too many, or one has too many bytes or pixels.
    """
    check_count(len(texts), limits=limits, param=param)
    return [image_from_text(text, index, limits=limits, param=f"{param}.{index}") for index, text in enumerate(texts)]


def image_from_text(text: str, index: int, *, limits: ImageLimits, param: str) -> EncodedImage:
    """The checked image at place `index` of a request; raises as `images_from_text` does."""
    encoded = _base64_part(text, index, param)
    # Measured without padding and line breaks only where they could matter: 4 characters stand for 3 bytes.
    if len(encoded) // 4 * 3 > limits.max_bytes:
        encoded = encoded.translate(_WHITESPACE)
        check_size(len(encoded.rstrip("=")) * 3 // 4, index, limits=limits, param=param)
    try:
        image = base64.b64decode(encoded.translate(_WHITESPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"image {index} is not valid base64 ({error}); send the file's bytes as base64 or a data: URI"
        raise InvalidRequest(message, param=param, code="invalid_base64") from None
    return check_image(image, index, limits=limits, param=param)


def images_from_bytes(images: Sequence[bytes], *, limits: ImageLimits, param: str = "images") -> list[EncodedImage]:
    """Checked images from their bytes; raises as `images_from_text` does."""
    check_count(len(images), limits=limits, param=param)
    return [check_image(image, index, limits=limits, param=f"{param}.{index}") for index, image in enumerate(images)]


def check_size(num_bytes: int, index: int, *, limits: ImageLimits, param: str) -> None:
    """Refuse an image of too many encoded bytes (413)."""
    if num_bytes > limits.max_bytes:
        message = f"image {index} has {num_bytes:,} bytes; at most {limits.max_bytes:,} are allowed"
        raise PayloadTooLarge(message, param=param, code="image_too_large")


def check_image(image: bytes, index: int, *, limits: ImageLimits, param: str) -> EncodedImage:
    """Refuse what is no image of an accepted format (400) or has too many bytes or pixels (413), by the header."""
    check_size(len(image), index, limits=limits, param=param)
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as header:
            width, height = header.size
    except UnidentifiedImageError:
        raise _not_an_image(image, index, param) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(index, _pixels_named_in(error), limits, param) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's readers raise on a damaged header
        message = f"image {index} has a damaged header: {error}"
        raise InvalidRequest(message, param=param, code="invalid_image") from None
    if width * height > limits.max_pixels:
        raise _too_many_pixels(index, f"{width} x {height} = {width * height:,} pixels", limits, param)
    return EncodedImage(image, width * height)


def _base64_part(text: str, index: int, param: str) -> str:
    if _URL.match(text):
        message = (
            f"image {index} is a URL ({text[:60]!r}); URLs are not fetched here. "
            "Send the image itself, as base64, as a data: URI or as a multipart file"
        )
        raise InvalidRequest(message, param=param, code="url_not_supported")
    if text[:5].lower() != "data:":
        return text
    match = _DATA_URI.match(text)
    if match is None or not match[2].lower().endswith(";base64"):
        message = f"image {index} is a data: URI without base64; send data:image/...;base64,..."
        raise InvalidRequest(message, param=param, code="invalid_base64")
    return text[match.end() :]


def _not_an_image(image: bytes, index: int, param: str) -> InvalidRequest:
    what = f"it begins with {image[:16]!r}" if image else "it is empty"
    message = f"image {index} is not an image in an accepted format: {what}. Accepted are {', '.join(FORMATS)}"
    return InvalidRequest(message, param=param, code="invalid_image")


def _too_many_pixels(index: int, size: str, limits: ImageLimits, param: str) -> PayloadTooLarge:
    message = f"image {index} has {size}; at most {limits.max_pixels:,} are allowed"
    return PayloadTooLarge(message, param=param, code="too_many_pixels")


def _pixels_named_in(error: Exception) -> str:
    """Pillow refuses the largest images itself and tells their size only in its sentence."""
    named = re.search(r"(\d+) pixels", str(error))
    return f"{int(named[1]):,} pixels" if named else "too many pixels"
