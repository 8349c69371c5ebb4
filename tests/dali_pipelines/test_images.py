"""Encoded bytes give the same pixels as files do, and bad ones are named by their place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.images import DecodeError, ImageDecoder
from dali_pipelines.loader import EvalLoader
from dali_pipelines.transforms import Preprocess

PREPROCESS = Preprocess(image_size=64)


@pytest.fixture(scope="module")
def decoder():
    made = ImageDecoder(PREPROCESS, max_batch_size=10, num_threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def encoded(manifest) -> list[bytes]:
    return [Path(file).read_bytes() for file in manifest.files(range(len(manifest)))]


def test_bytes_equal_files_over_several_batches(decoder, manifest, encoded):
    (batch,) = EvalLoader(manifest, preprocess=PREPROCESS, batch_size=25)
    assert torch.equal(decoder.decode(encoded), batch.images)


def test_one_image_and_none(decoder, encoded):
    assert torch.equal(decoder.decode(encoded[:1]), decoder.decode(encoded)[:1])
    assert decoder.decode([]).shape == (0, 3, 64, 64)


def test_results_stay_when_the_decoder_goes_on(decoder, encoded):
    first = decoder.decode(encoded[:4])
    kept = first.clone()
    decoder.decode(encoded[4:12])
    assert torch.equal(first, kept)


@pytest.mark.parametrize("ending", [".jpg", ".gif", ".png", ".webp"])
@pytest.mark.parametrize("bad", [b"", b"no image", "truncated", b"\x89PNG\r\n\x1a\n1234"])
def test_a_bad_image_is_named_and_the_next_call_works(decoder, manifest, encoded, ending, bad):
    place = max(row for row, path in enumerate(manifest.paths) if path.endswith(ending))
    images = list(encoded)
    images[place] = images[place][: len(images[place]) // 2] if bad == "truncated" else bad
    with pytest.raises(DecodeError) as raised:
        decoder.decode(images)
    assert raised.value.index == place
    assert f"image {place} cannot be decoded" in str(raised.value)
    assert decoder.decode(encoded).shape == (25, 3, 64, 64)


def test_exif_is_applied_on_request(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photos[0].save(buffer, "JPEG", exif=exif)
    turned = ImageDecoder(Preprocess(64, exif="apply"), num_threads=1).decode([buffer.getvalue()])
    stored = ImageDecoder(Preprocess(64), num_threads=1).decode([buffer.getvalue()])
    np.testing.assert_allclose(turned, stored.rot90(-1, dims=(2, 3)), atol=0.2)
    assert not torch.equal(turned, stored)
