"""What callers send as images: told apart by size and header, without decoding a pixel."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from service.errors import InvalidRequest, PayloadTooLarge
from service.inference.images import FORMATS, EncodedImage, ImageLimits, images_from_bytes, images_from_text

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=1_000_000, max_images=4)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to have this size, with one byte of compressed pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", FORMATS)
def test_every_accepted_format_passes(encoded, format):
    image = encoded(format=format)
    assert images_from_bytes([image], limits=LIMITS) == [EncodedImage(image, 60 * 48)]


@pytest.mark.parametrize(
    ("format", "mode"), [("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "I;16"), ("PNG", "P"), ("PNG", "RGBA"), ("PPM", "I")]
)
def test_unusual_kinds_of_pixels_pass(format, mode):
    buffer = io.BytesIO()
    Image.new(mode, (20, 10)).save(buffer, format)
    assert images_from_bytes([buffer.getvalue()], limits=LIMITS)[0].data == buffer.getvalue()


@pytest.mark.parametrize(
    "prefix", ["", "data:image/png;base64,", "DATA:image/png;charset=utf-8;base64,", "data:;base64,"]
)
def test_base64_and_data_uris_are_decoded(encoded, prefix):
    image = encoded()
    assert images_from_text([prefix + base64.b64encode(image).decode()], limits=LIMITS) == [
        EncodedImage(image, 60 * 48)
    ]


def test_base64_with_line_breaks_is_decoded(encoded):
    image = encoded()
    assert images_from_text([base64.encodebytes(image).decode()], limits=LIMITS) == [EncodedImage(image, 60 * 48)]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("https://example.com/rose.jpg", "url_not_supported", "URLs are not fetched"),
        ("file:///etc/passwd", "url_not_supported", "URLs are not fetched"),
        ("not base64!", "invalid_base64", "not valid base64"),
        ("abc", "invalid_base64", "not valid base64"),
        ("data:image/png,rawbytes", "invalid_base64", "without base64"),
        ("data:image/png;base64", "invalid_base64", "without base64"),
        ("é", "invalid_base64", "not valid base64"),
        ("", "invalid_image", "it is empty"),
    ],
)
def test_text_that_is_no_image_is_refused(encoded, text, code, words):
    good = base64.b64encode(encoded()).decode()
    with pytest.raises(InvalidRequest, match=words) as refused:
        images_from_text([good, text], limits=LIMITS)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, "images.1")
    assert "image 1" in refused.value.message


def test_a_text_file_is_refused_with_what_it_is_and_what_is_allowed():
    with pytest.raises(InvalidRequest) as refused:
        images_from_bytes([b"Dear reader, this is a letter"], limits=LIMITS)
    assert refused.value.status == 400
    assert refused.value.message == (
        "image 0 is not an image in an accepted format: it begins with b'Dear reader, thi'. "
        "Accepted are JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM"
    )


@pytest.mark.parametrize("format", ["ICO", "TGA", "PDF", "EPS"])
def test_formats_that_are_not_on_the_list_are_refused(picture, format):
    buffer = io.BytesIO()
    picture().save(buffer, format)
    with pytest.raises(InvalidRequest, match="accepted format"):
        images_from_bytes([buffer.getvalue()], limits=LIMITS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("format", FORMATS)
def test_a_header_cut_off_is_refused(encoded, format):
    with pytest.raises(InvalidRequest, match="image 0"):
        images_from_bytes([encoded(format=format)[:9]], limits=LIMITS)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((50_000, 50_000), "2,500,000,000 pixels"),
        ((12_000, 10_000), "12000 x 10000 = 120,000,000 pixels"),
        ((1001, 1000), "1001 x 1000 = 1,001,000 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_by_the_header_alone(size, words, monkeypatch):
    def refuse_to_decode(self: Image.Image) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse_to_decode)
    with pytest.raises(PayloadTooLarge) as refused:
        images_from_bytes([png_header(*size)], limits=LIMITS)
    assert refused.value.message == f"image 0 has {words}; at most 1,000,000 are allowed"
    assert (refused.value.status, refused.value.code) == (413, "too_many_pixels")


def test_as_many_pixels_as_allowed_pass():
    assert images_from_bytes([png_header(1000, 1000)], limits=LIMITS)


def test_too_many_bytes_are_refused_before_base64_is_decoded(monkeypatch):
    def refuse_to_decode(*arguments: object, **options: object) -> bytes:
        raise AssertionError("base64 was decoded")

    monkeypatch.setattr("base64.b64decode", refuse_to_decode)
    with pytest.raises(PayloadTooLarge) as refused:
        images_from_text(["A" * 134_000], limits=LIMITS)
    assert refused.value.message == "image 0 has 100,500 bytes; at most 100,000 are allowed"


def test_base64_padding_and_line_breaks_do_not_count_as_bytes(encoded):
    image = encoded() + b"\0" * (100_000 - len(encoded()))
    assert images_from_text([base64.encodebytes(image).decode()], limits=LIMITS) == [EncodedImage(image, 60 * 48)]
    with pytest.raises(PayloadTooLarge, match="100,001 bytes"):
        images_from_text([base64.encodebytes(image + b"\0").decode()], limits=LIMITS)


def test_the_number_of_images_is_limited(encoded):
    with pytest.raises(PayloadTooLarge, match="5 images in one request; at most 4"):
        images_from_bytes([encoded()] * 5, limits=LIMITS)
    with pytest.raises(InvalidRequest, match="at least one image"):
        images_from_bytes([], limits=LIMITS)
