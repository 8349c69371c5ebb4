"""Stochastic depth and dropout where a tower was built without them."""

import pytest
import timm
import torch

from trainer import tower_dropout
from trainer.errors import UnusableSpecError
from trainer.models import load_clip
from trainer.spec import ModelSpec


@pytest.fixture
def visual():
    torch.manual_seed(0)
    return load_clip(ModelSpec(name="attune-tiny-32")).module.visual


def branch(visual, index):
    """What a block's attention branch gives for ones, per sample."""
    scale = visual.transformer.resblocks[index].ls_1
    return scale(torch.ones(4000, 2, 3))


def test_rates_rise_linearly_to_the_last_block(visual):
    names = list(visual.state_dict())
    tower_dropout.apply(visual.train(), drop_path=0.3, dropout=0.0)
    assert list(visual.state_dict()) == names
    for index, rate in enumerate((0.0, 0.1, 0.2, 0.3)):
        dropped = branch(visual, index)
        whole = dropped.flatten(1)
        assert bool(((whole == 0).all(1) | (whole > 0).all(1)).all())  # samples as a whole
        assert (whole == 0).all(1).float().mean().item() == pytest.approx(rate, abs=0.025)
        assert whole.mean().item() == pytest.approx(1.0, abs=0.05)  # what is left makes up for it


def test_dropout_takes_elements_of_tokens_and_branches(visual):
    tower_dropout.apply(visual.train(), drop_path=0.0, dropout=0.25)
    for output in (branch(visual, 0), visual.patch_dropout(torch.ones(4000, 2, 3))):
        assert (output == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_evaluation_drops_nothing(visual, digit_images):
    with torch.no_grad():
        expected = visual.eval()(digit_images)
        tower_dropout.apply(visual, drop_path=0.5, dropout=0.5)
        assert torch.equal(visual(digit_images), expected)
        assert not torch.equal(visual.train()(digit_images), expected)


def test_timms_own_layers_take_the_rates():
    tower = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=0)
    reference = timm.create_model(
        "vit_tiny_patch16_224", depth=3, num_classes=0, drop_path_rate=0.2, proj_drop_rate=0.1, pos_drop_rate=0.1
    )
    tower_dropout.apply(tower, drop_path=0.2, dropout=0.1)

    def rates(module):
        return [(n, getattr(m, "p", 0.0) or float(getattr(m, "drop_prob", 0) or 0)) for n, m in module.named_modules()]

    assert [(n, pytest.approx(r)) for n, r in rates(reference)] == rates(tower)


def test_where_there_is_no_place_for_it_the_field_is_named():
    with pytest.raises(UnusableSpecError, match=r"model\.image\.drop_path 0\.1: ResNet has no residual blocks"):
        tower_dropout.apply(timm.create_model("resnet18", num_classes=0), drop_path=0.1, dropout=0.0)
    with pytest.raises(UnusableSpecError, match=r"model\.image\.dropout 0\.1: ResNet has no dropout"):
        tower_dropout.apply(timm.create_model("resnet18", num_classes=0), drop_path=0.0, dropout=0.1)
