"""What one look at an image finds."""

import io

import numpy as np
import pytest
from PIL import Image

from dali_pipelines import pillow_images
from dali_pipelines.validation.image_facts import look, pixels_in_full


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_it_agrees_with_pillow_on_size_and_road(folder):
    for file in sorted(folder.glob("*/*")):
        found, grid = look(file.read_bytes(), name=file.name)
        facts = pillow_images.inspect(file)
        assert (found.width, found.height, found.decoder) == (facts.width, facts.height, facts.decoder)
        assert (found.reason, found.remark) == ("", "")
        assert grid.shape == (32, 32)
        assert grid.std() > 2


def test_each_kind_of_damage_is_named(damaged_photos):
    def reason(name):
        return look((damaged_photos / "train" / name).read_bytes(), name=name)[0].reason

    assert "truncated" in reason("flower/10.jpg")
    assert reason("temple/10.jpg") == "the file is empty"
    assert reason("temple/11.jpg") == "not an image that can be read"
    assert reason("temple/crc.png")


def test_corrupt_data_that_pillow_decodes_without_a_word_are_remarked(damaged_photos):
    file = damaged_photos / "train/flower/11.jpg"
    Image.open(file).load()  # nothing is raised
    found, _ = look(file.read_bytes(), name=file.name)
    assert found.reason == ""
    assert found.remark.startswith("damaged, though it decodes: Corrupt JPEG data")


def test_a_name_of_another_format_is_remarked(photos):
    assert look(encoded(photos[0], "PNG"), name="a.jpg")[0].remark == "a PNG file called .jpg"
    assert look(encoded(photos[0], "PNG"), name="a.img")[0].remark == ""


def test_an_image_beyond_the_limit_is_not_decoded(photos):
    found, _ = look(encoded(photos[0]), name="a.jpg", max_pixels=640 * 427 - 1)
    assert found.reason == "too large: 640 x 427 = 273,280 pixels are more than the limit of 273,279"
    assert (found.width, found.height) == (640, 427)
    assert look(encoded(photos[0]), name="a.jpg", max_pixels=640 * 427)[0].reason == ""


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_every_kind_of_jpeg_is_looked_at(photos, mode):
    found, grid = look(encoded(photos[0].convert(mode)), name="a.jpg")
    assert (found.reason, found.remark, found.mode) == ("", "", mode)
    expected = np.asarray(photos[0].convert("L").resize((32, 32), Image.Resampling.BOX), float)
    assert np.corrcoef(grid.ravel(), expected.ravel())[0, 1] > 0.99


def test_pixels_are_told_apart_in_full_where_reduced_ones_agree():
    """Two colours of the same brightness: their grey pixels are equal."""
    one, other = (encoded(Image.new("RGB", (64, 64), colour)) for colour in ((255, 0, 0), (0, 129, 2)))
    assert look(one, name="a.jpg")[0].pixels == look(other, name="a.jpg")[0].pixels
    assert pixels_in_full(one) != pixels_in_full(other)
