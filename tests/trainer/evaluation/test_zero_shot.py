"""The zero-shot head against a loop over classes and templates."""

import pytest
import torch

from trainer.evaluation.zero_shot import zero_shot_weights

CLASS_NAMES = ("cat", "dog", "sea lion", "tram")
TEMPLATES = ("a photo of a {}.", "art of the {}.", "{}")


def slow_weights(clip):
    clip.module.eval()
    columns = []
    for name in CLASS_NAMES:
        embeddings = []
        for template in TEMPLATES:
            with torch.no_grad():
                embedding = clip.module.encode_text(clip.tokenize([template.format(name)]))[0]
            embeddings.append(embedding / embedding.norm())
        mean = sum(embeddings) / len(embeddings)
        columns.append(mean / mean.norm())
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_weights_equal_a_loop_whatever_the_batch(clip, batch_size):
    weights = zero_shot_weights(
        clip.module, clip.tokenize, CLASS_NAMES, TEMPLATES, device=torch.device("cpu"), batch_size=batch_size
    )
    assert weights.shape == (64, 4)
    torch.testing.assert_close(weights, slow_weights(clip), rtol=1e-5, atol=1e-6)


def test_each_template_counts_the_same_however_long_its_embedding(clip):
    """Without the first normalisation, a template with a long embedding would outweigh the others."""
    lengths = iter([1.0, 100.0])

    class Stretched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode_text(self, tokens):
            return torch.stack([torch.eye(2)[row] * next(lengths) for row in range(len(tokens))])

    weights = zero_shot_weights(
        Stretched(), clip.tokenize, ["cat"], ["a {}", "the {}"], device=torch.device("cpu"), batch_size=2
    )
    torch.testing.assert_close(weights[:, 0], torch.tensor([0.5**0.5, 0.5**0.5]))


def test_the_model_comes_back_as_it_was(clip):
    clip.module.visual.eval()
    before = {name: tensor.clone() for name, tensor in clip.module.state_dict().items()}
    flags = [part.training for part in clip.module.modules()]
    weights = zero_shot_weights(clip.module, clip.tokenize, CLASS_NAMES, TEMPLATES, device=torch.device("cpu"))
    assert [part.training for part in clip.module.modules()] == flags
    assert len(set(flags)) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in clip.module.state_dict().items())
    assert not weights.requires_grad
    assert not weights.is_inference()
