"""Views of an image, and the mean over them."""

import pytest
import torch

from dali_pipelines.transforms import Preprocess
from trainer.evaluation.views import VIEWS, loaded_size, mean_log_probabilities, views_of

PREPROCESS = Preprocess(image_size=224, mean=(0, 0, 0), std=(1, 1, 1))


def test_images_are_loaded_larger_where_crops_are_taken():
    sizes = {views: loaded_size(PREPROCESS, views).image_size for views in VIEWS}
    assert sizes == {"none": 224, "flip": 224, "five_crop": 256, "ten_crop": 256}


@pytest.mark.parametrize(("views", "count"), [("none", 1), ("flip", 2), ("five_crop", 5), ("ten_crop", 10)])
def test_views_have_the_models_size_and_begin_with_the_plain_one(views, count):
    size = 32 if views in ("none", "flip") else 40
    images = torch.rand(2, 3, size, size)
    found = views_of(images, views, size=32)
    assert len(found) == count
    assert all(view.shape == (2, 3, 32, 32) for view in found)
    edge = (size - 32) // 2
    assert torch.equal(found[0], images[..., edge : edge + 32, edge : edge + 32])
    if views == "ten_crop":
        assert torch.equal(found[9], images[..., 8:, 8:].flip(-1))


def test_the_prediction_is_the_mean_probability():
    images = torch.rand(3, 4)
    views = [images, -images]

    def scores(view):
        return 3 * view

    mean = (scores(views[0]).softmax(1) + scores(views[1]).softmax(1)) / 2
    assert torch.allclose(mean_log_probabilities(scores, views).exp(), mean.double())
    assert torch.equal(mean_log_probabilities(scores, views[:1]), scores(images))
