"""The line between two models, number by number."""

import pytest
import torch

from trainer.interpolation import (
    InterpolationError,
    blend,
    blend_tensor_by_fisher,
)
from trainer.models import load_clip
from trainer.spec import ModelSpec


def state(seed, **more):
    generator = torch.Generator().manual_seed(seed)
    return {
        "tower.weight": torch.randn(3, 4, generator=generator),
        "logit_scale": torch.randn(1, generator=generator),
        "bn.running_var": torch.rand(3, generator=generator),
        "bn.num_batches_tracked": torch.tensor(seed),
        **more,
    }


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_the_line_are_the_models_themselves_bit_for_bit(alpha):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(load_clip(ModelSpec(name="attune-tiny-32")).module.state_dict())
    models[0]["logit_scale"] = torch.tensor([-0.0])  # plain arithmetic would lose the sign
    blended = blend(*models, alpha=alpha)
    endpoint = models[int(alpha)]
    assert blended.keys() == endpoint.keys()
    for name, tensor in endpoint.items():
        assert torch.equal(blended[name].signbit(), tensor.signbit()), name
        assert torch.equal(blended[name], tensor), name
        assert blended[name].data_ptr() != tensor.data_ptr()


def test_an_infinite_weight_at_the_other_end_does_not_leak():
    start, tuned = state(0), state(1)
    tuned["tower.weight"][0, 0] = torch.inf
    assert torch.equal(blend(start, tuned, alpha=0)["tower.weight"], start["tower.weight"])


def test_between_them_every_number_is_on_the_line_and_buffers_too():
    start, tuned = state(0), state(1)
    blended = blend(start, tuned, alpha=0.25)
    for name in ("tower.weight", "logit_scale", "bn.running_var"):
        torch.testing.assert_close(blended[name], 0.75 * start[name] + 0.25 * tuned[name])
    assert blended["bn.num_batches_tracked"].item() == 1
    assert blended["bn.num_batches_tracked"].dtype == torch.int64


def test_half_precision_is_computed_in_float32_and_mixed_types_lose_nothing():
    start, tuned = {"w": torch.tensor([1.0], dtype=torch.float16)}, {"w": torch.tensor([1.001], dtype=torch.float16)}
    third = start["w"].float() * (2 / 3) + tuned["w"].float() * (1 / 3)
    assert blend(start, tuned, alpha=1 / 3)["w"].item() == third.half().item()
    mixed = blend(start, {"w": torch.tensor([1.0001])}, alpha=1.0)["w"]
    assert mixed.dtype == torch.float32
    assert mixed.item() == torch.tensor(1.0001).item()


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_alpha_outside_the_line_is_refused(alpha):
    with pytest.raises(InterpolationError, match=r"alpha is .*between 0 \(the start\) and 1"):
        blend(state(0), state(0), alpha=alpha)


def test_models_that_do_not_correspond_are_refused_by_name():
    start = state(0, old=torch.zeros(1))
    tuned = state(1, new=torch.zeros(1), **{"tower.weight": torch.zeros(3, 5)})
    with pytest.raises(InterpolationError) as refused:
        blend(start, tuned, alpha=0.5)
    text = str(refused.value)
    assert "only in the start: old" in text
    assert "only in the tuned model: new" in text
    assert "of another shape: tower.weight ([3, 4] and [3, 5])" in text


def test_fisher_weights_decide_number_by_number():
    start, tuned = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    merged = blend_tensor_by_fisher(
        start,
        tuned,
        alpha=0.5,
        start_fisher=torch.tensor([3.0, 0.0, 0.0]),
        tuned_fisher=torch.tensor([1.0, 1.0, 0.0]),
        floor=1e-8,
    )
    torch.testing.assert_close(merged, torch.tensor([0.25, 1 / (1 + 1e-8), 0.5]))


def test_equal_fisher_weights_are_the_straight_line():
    start, tuned = state(0)["tower.weight"], state(1)["tower.weight"]
    fisher = torch.rand(3, 4) + 0.1
    merged = blend_tensor_by_fisher(start, tuned, alpha=0.3, start_fisher=fisher, tuned_fisher=fisher)
    torch.testing.assert_close(merged, 0.7 * start + 0.3 * tuned)
