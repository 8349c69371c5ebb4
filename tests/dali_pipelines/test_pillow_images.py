"""What Pillow says of a file: size, road, and why it refuses one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.pillow_images import ImageFacts, UnreadableImage, as_ppm, inspect


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "decoder"),
    [
        ("RGB", "JPEG", "dali"),
        ("L", "JPEG", "dali"),
        ("CMYK", "JPEG", "pillow"),
        ("RGBA", "PNG", "dali"),
        ("I;16", "PNG", "pillow"),
        ("P", "GIF", "pillow"),
        ("RGB", "BMP", "pillow"),
        ("RGB", "WEBP", "dali"),
    ],
)
def test_facts_of_an_image(mode, kind, decoder):
    assert inspect(encoded(Image.new(mode, (30, 20)), kind)) == ImageFacts(30, 20, decoder)


def test_a_ppm_holds_pillows_rgb_pixels(photos):
    data = encoded(photos[0].convert("CMYK"), "JPEG")
    ppm = as_ppm(data)
    back = Image.open(io.BytesIO(ppm.tobytes()))
    np.testing.assert_array_equal(np.array(back), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_damage_is_found_only_by_decoding_fully(photos):
    data = encoded(photos[0], "JPEG")[:20000]
    assert inspect(data).width == 640
    for look in (lambda: inspect(data, fully=True), lambda: as_ppm(data)):
        with pytest.raises(UnreadableImage, match="truncated"):
            look()


def test_files_that_are_no_images_are_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name in ("text.jpg", "empty.png"):
        with pytest.raises(UnreadableImage, match="not an image"):
            inspect(tmp_path / name)
    with pytest.raises(UnreadableImage, match="does not exist"):
        inspect(tmp_path / "missing.jpg")


def test_a_decompression_bomb_is_refused_by_its_header():
    header = b"P6 20000 20000 255\n"
    with pytest.raises(UnreadableImage, match="exceeds limit"):
        inspect(header)
