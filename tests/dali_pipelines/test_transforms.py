"""Geometry of the evaluation transform, against torchvision's own."""

from __future__ import annotations

import numpy as np
import pytest
from torchvision.transforms.functional import _compute_resized_output_size

from dali_pipelines.transforms import Preprocess, resize_regions, resized_size

SIZES = np.array([(640, 480), (480, 640), (224, 224), (225, 224), (33, 500), (1, 9), (1000, 3)])


def test_resized_size_is_torchvisions():
    for image_size in (32, 224, 336):
        expected = [_compute_resized_output_size((h, w), [image_size])[::-1] for w, h in SIZES.tolist()]
        assert resized_size(SIZES, image_size).tolist() == expected


def test_regions_are_centred_and_square_in_the_resized_image():
    start, end = resize_regions(SIZES, Preprocess(image_size=224))
    scale = resized_size(SIZES, 224) / SIZES
    np.testing.assert_allclose((end - start)[:, ::-1] * scale, 224, rtol=1e-4)
    off_centre = 37 * 640 / 298  # 640x480 becomes 298x224
    np.testing.assert_allclose(start[:3], [[0, off_centre], [off_centre, 0], [0, 0]], rtol=1e-5)


def test_squash_takes_the_whole_image():
    start, end = resize_regions(SIZES, Preprocess(resize_mode="squash"))
    assert not start.any()
    np.testing.assert_array_equal(end, SIZES[:, ::-1])


def test_a_share_of_the_resized_image_is_kept():
    preprocess = Preprocess(image_size=224, crop_pct=0.875)
    assert preprocess.resize_size == 256
    start, end = resize_regions(SIZES[2:3], preprocess)
    np.testing.assert_allclose([*start[0], *end[0]], [14, 14, 210, 210], rtol=1e-6)  # of 224 pixels, resized to 256
    squashed, _ = resize_regions(SIZES[:1], Preprocess(image_size=224, crop_pct=0.875, resize_mode="squash"))
    np.testing.assert_allclose(squashed[0], [480 / 16, 640 / 16], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interpolation", "nearest"),
        ("resize_mode", "longest"),
        ("exif", "maybe"),
        ("image_size", 0),
        ("crop_pct", 0),
        ("crop_pct", 1.5),
    ],
)
def test_a_value_that_is_not_allowed_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}"):
        Preprocess(**{field: value})
