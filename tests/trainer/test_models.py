"""Image-text models by name: sizes and contexts other than their own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from trainer.errors import UnusableSpecError
from trainer.models import load_clip
from trainer.spec import ModelSpec


def load(name, **model):
    torch.manual_seed(0)
    return load_clip(ModelSpec.model_validate({"name": name, **model}))


@pytest.mark.slow
@torch.no_grad()
def test_a_residual_network_takes_another_image_size():
    own, other = load("RN50"), load("RN50", image_size=64)
    positions = [model.module.visual.attnpool.positional_embedding for model in (own, other)]
    assert [tuple(p.shape) for p in positions] == [(50, 2048), (5, 2048)]
    grid = positions[0][1:].T.reshape(1, 2048, 7, 7)
    expected = F.interpolate(grid, size=2, mode="bicubic", antialias=True).flatten(2)[0].T
    torch.testing.assert_close(positions[1], torch.cat([positions[0][:1], expected]))
    assert other.module.visual(torch.randn(2, 3, 64, 64)).shape == (2, 1024)
    assert other.preprocess.image_size == 64


@torch.no_grad()
def test_a_shorter_context_cuts_positions_and_mask():
    own, shorter = load("attune-tiny-32"), load("attune-tiny-32", text={"context_length": 8})
    texts = ["a dog", "a photo of a cat"]
    assert shorter.tokenize(texts).shape == (2, 8)
    assert shorter.config["text_cfg"]["context_length"] == 8
    # behind the end token a causal transformer reads nothing, so that short texts keep their features
    expected = own.module.encode_text(own.tokenize(texts))
    torch.testing.assert_close(shorter.module.encode_text(shorter.tokenize(texts)), expected)


def test_a_longer_context_is_refused():
    with pytest.raises(UnusableSpecError, match=r"model\.text\.context_length 20: .* 16 position embeddings"):
        load("attune-tiny-32", text={"context_length": 20})
