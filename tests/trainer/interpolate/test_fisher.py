"""Squared gradients against ways of one's own to compute them."""

import pytest
import torch
from torch import nn

from dali_pipelines.loader import EvalLoader
from trainer.interpolate.fisher import Differentiable, diagonal_fisher, differentiable, spread
from trainer.interpolate.judge import read_data, settled_data
from trainer.interpolation import InterpolationError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def manifest(clips, digits):
    settled = settled_data(clips[0], data=[str(digits / "heldout")], templates=[])
    return next(iter(read_data(settled).values()))


@pytest.fixture(scope="module")
def model(clips, manifest):
    templates = ["a scan of the digit {}.", "{}"]
    return differentiable(clips[1], class_names=manifest.class_names, templates=templates, device=CPU)


class Linear(nn.Module):
    """A head on the mean colour: its Fisher information has a closed form."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 10)

    def forward(self, images):
        return self.head(images.mean(dim=(2, 3)))


def linear(model):
    module = Linear()
    return module, Differentiable(
        module, {"model.safetensors": dict(module.named_parameters())}, model.preprocess, model.class_names
    )


def pixels(model, manifest):
    return torch.cat(
        [batch.images.clone() for batch in EvalLoader(manifest, preprocess=model.preprocess, batch_size=4)]
    )


def test_a_linear_head_has_its_closed_form_on_true_labels(model, manifest):
    some = spread(manifest, num_samples=8)
    module, wrapped = linear(model)
    found = diagonal_fisher(wrapped, some, labels="true", seed=0, device=CPU)["model.safetensors"]
    images = pixels(model, some)
    with torch.no_grad():
        errors_nc = module(images).softmax(dim=1)
    errors_nc[torch.arange(8), torch.from_numpy(some.labels.astype("int64"))] -= 1
    torch.testing.assert_close(found["head.bias"], errors_nc.pow(2).mean(dim=0))
    means_nd = images.mean(dim=(2, 3))
    expected_cd = (errors_nc[:, :, None] * means_nd[:, None, :]).pow(2).mean(dim=0)
    torch.testing.assert_close(found["head.weight"], expected_cd)


def test_drawn_labels_follow_the_prediction(model, manifest):
    """The expectation over labels of the squared bias gradient is p (1 - p)."""
    many = manifest.select(list(range(40)) * 20)
    module, wrapped = linear(model)
    found = diagonal_fisher(wrapped, many, labels="sampled", seed=0, device=CPU)["model.safetensors"]["head.bias"]
    with torch.no_grad():
        shares_nc = module(pixels(model, manifest.select(range(40)))).softmax(dim=1)
    torch.testing.assert_close(found, (shares_nc * (1 - shares_nc)).mean(dim=0), rtol=0.4, atol=0.01)
    again = diagonal_fisher(wrapped, spread(manifest, num_samples=6), labels="sampled", seed=0, device=CPU)
    other = diagonal_fisher(wrapped, spread(manifest, num_samples=6), labels="sampled", seed=1, device=CPU)
    assert not torch.equal(again["model.safetensors"]["head.bias"], other["model.safetensors"]["head.bias"])


def test_an_image_text_model_has_information_in_both_towers_and_its_scale(model, manifest):
    one = spread(manifest, num_samples=1)
    (found,) = diagonal_fisher(model, one, labels="predicted", seed=0, device=CPU).values()
    assert found["visual.conv1.weight"].max() > 0
    assert found["token_embedding.weight"].max() > 0

    image = pixels(model, one)
    scale = model.parameters["open_clip_model.safetensors"]["logit_scale"]

    def log_likelihood(shift):
        with torch.no_grad():
            scale.add_(shift)
            value = model.logits(image)[0].double().log_softmax(dim=0).max().item()
            scale.sub_(shift)
        return value

    slope = (log_likelihood(1e-2) - log_likelihood(-1e-2)) / 2e-2
    assert found["logit_scale"].item() == pytest.approx(slope**2, rel=1e-2)


def test_samples_are_spread_over_the_data(manifest):
    assert len(spread(manifest, num_samples=None)) == len(spread(manifest, num_samples=1000)) == 80
    assert set(spread(manifest, num_samples=10).labels.tolist()) == set(range(10))


def test_true_labels_must_be_there(model, manifest):
    unlabelled = type(manifest).from_columns(
        manifest.roots[0], paths=manifest.paths[:2], sizes=manifest.sizes[:2], class_names=()
    )
    with pytest.raises(InterpolationError, match="needs a label of each image"):
        diagonal_fisher(model, unlabelled, labels="true", seed=0, device=CPU)
