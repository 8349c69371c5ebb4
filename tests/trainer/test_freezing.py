"""ITRA's lock rules, and towers that stay in evaluation mode."""

import copy

import pytest
import torch
from torch import nn

from trainer.errors import UnusableSpecError
from trainer.freezing import freeze_matching, lock_tower
from trainer.model_setup import build_model
from trainer.spec import JobSpec


def trained(*, locked, patterns, names=("stem.weight", "layer1.weight", "layer2.bias")):
    parameters = {name: nn.Parameter(torch.zeros(1)) for name in names}
    lock_tower(parameters, locked=locked, patterns=patterns, field="model.image.lock_patterns")
    return [name for name, parameter in parameters.items() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("locked", "patterns", "expected"),
    [
        (True, [], []),
        (False, [], ["stem.weight", "layer1.weight", "layer2.bias"]),
        (True, ["!layer"], ["layer1.weight", "layer2.bias"]),
        (True, ["!layer", "layer1"], ["layer1.weight", "layer2.bias"]),  # the first ! wins in a locked tower
        (True, ["layer1", "!layer"], ["layer1.weight", "layer2.bias"]),
        (True, ["layer1"], []),
        (False, ["layer"], ["stem.weight"]),
        (False, ["layer", "!layer1"], ["stem.weight"]),  # the first without ! wins in an unlocked tower
        (False, ["!layer1", "layer"], ["stem.weight"]),
        (False, ["!layer1"], ["stem.weight", "layer1.weight", "layer2.bias"]),
    ],
)
def test_which_pattern_wins(locked, patterns, expected):
    assert trained(locked=locked, patterns=patterns) == expected


def test_a_lock_pattern_without_a_parameter_is_refused():
    with pytest.raises(
        UnusableSpecError, match="'!layer7' matches no parameter; the tower's begin with layer1, layer2"
    ):
        trained(locked=True, patterns=["!layer1", "!layer7"])


@pytest.mark.parametrize("pattern", ["", "!"])
def test_a_lock_pattern_without_a_word_is_refused(pattern):
    with pytest.raises(UnusableSpecError, match=f"'{pattern}' holds no word, and would match every parameter"):
        trained(locked=True, patterns=[pattern])


def test_the_last_freeze_pattern_wins():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    freeze_matching(module, patterns=["*", "!1.*", "*.bias"])
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["1.weight"]


def residual_network(manifest, **image):
    """timm's smallest ResNet in front of a small text tower."""
    torch.manual_seed(0)
    model = {"name": "attune-tiny-32", "image": {"tower": "timm/test_resnet", **image}}
    return build_model(JobSpec.model_validate({"model": model}), train=manifest).module


def test_batch_statistics_of_a_locked_tower_do_not_move_while_it_is_partly_trained(digits_manifest, digit_images):
    module = residual_network(digits_manifest, lock=True, lock_patterns=["!layer4"])
    twin = copy.deepcopy(module).train()
    assert not twin.visual.training
    assert twin.transformer.training
    before = {name: value.clone() for name, value in twin.named_buffers()}
    twin.encode_image(digit_images).square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in twin.named_buffers())
    trained = {name for name, parameter in twin.visual.named_parameters() if parameter.grad is not None}
    assert trained == {n for n, _ in twin.visual.named_parameters() if n.startswith(("trunk.layer4.", "head."))}
    assert any(twin.visual.get_parameter(name).grad.abs().sum() > 0 for name in trained if "layer4" in name)


def test_batch_statistics_of_an_open_tower_move(digits_manifest, digit_images):
    module = residual_network(digits_manifest).train()
    before = module.visual.trunk.bn1.running_mean.clone()
    module.encode_image(digit_images)
    assert not torch.equal(module.visual.trunk.bn1.running_mean, before)
