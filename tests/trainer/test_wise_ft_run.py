"""The line of a run, with the models that jobs have."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from trainer.model_setup import build_model
from trainer.resolve import resolve
from trainer.wise_ft_run import RunLine


def run_of(digits_manifest, **settings):
    """What a run keeps for its line: the spec, the replica and the first weights."""
    spec = resolve(spec={"model": "attune-tiny-32", "data": {"train": "digits"}, **settings})
    torch.manual_seed(0)
    model = build_model(spec, train=digits_manifest)
    replica = replace(model, module=model.module.eval().requires_grad_(False))
    start = {name: tensor.clone() for name, tensor in replica.module.state_dict().items()}
    return SimpleNamespace(spec=spec, replica=replica, start_weights=start)


def trained(run, *, only=""):
    """Weights after some training of those parameters whose name has `only` in it."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        if only in name and tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in run.start_weights.items()
    }


def test_flyp_interpolates_both_towers_and_the_logit_scale(digits_manifest):
    run = run_of(digits_manifest, objective={"name": "class_prompts"})
    tuned = trained(run)
    model = RunLine.of(run, tuned=tuned).at(0.25)
    found = model.module.state_dict()
    for name in ("visual.conv1.weight", "token_embedding.weight", "text_projection", "logit_scale"):
        torch.testing.assert_close(found[name], 0.75 * run.start_weights[name] + 0.25 * tuned[name])


def test_a_classifier_is_interpolated_with_its_head_and_the_ends_are_its_own(digits_manifest, digit_images):
    run = run_of(digits_manifest, objective={"name": "classification", "head": "fresh"})
    tuned = trained(run)
    line = RunLine.of(run, tuned=tuned)
    for alpha, state in ((0, run.start_weights), (1, tuned)):
        assert all(torch.equal(tensor, state[name]) for name, tensor in line.at(alpha).module.state_dict().items())
    half = line.at(0.5).module
    torch.testing.assert_close(half.head.weight, (run.start_weights["head.weight"] + tuned["head.weight"]) / 2)
    assert half(digit_images).shape == (4, 10)


@pytest.mark.parametrize("method", ["lora", "loha"])
def test_adapters_are_merged_before_the_line_is_drawn(digits_manifest, digit_images, method):
    adapter = {"method": method, "rank": 2, "targets": ["*mlp*"]}
    run = run_of(digits_manifest, objective={"name": "class_prompts"}, **{
        "model": {"name": "attune-tiny-32", "image": {"adapter": adapter}}
    })  # fmt: skip
    word = "lora" if method == "lora" else "hada"
    tuned = trained(run, only=word)
    assert any(not torch.equal(tuned[name], tensor) for name, tensor in run.start_weights.items())

    run.replica.module.load_state_dict(tuned)
    expected = run.replica.module.encode_image(digit_images)
    line = RunLine.of(run, tuned=tuned)
    assert not any(word in name for name in line.tuned)
    torch.testing.assert_close(line.at(1).module.encode_image(digit_images), expected, rtol=1e-4, atol=1e-5)
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    middle = line.at(0.5).module.state_dict()[name]
    torch.testing.assert_close(middle, (line.start[name] + line.tuned[name]) / 2)
    assert not torch.equal(line.start[name], line.tuned[name])
