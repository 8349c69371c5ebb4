import pytest
import torch

from trainer.model_setup import build_structure
from trainer.models import load_clip
from trainer.plan.activations import activation_bytes, tower_activations
from trainer.spec import JobSpec, ModelSpec


def estimate(inputs, *, model="attune-tiny-32", **sections):
    spec = JobSpec.model_validate({"model": model, **sections})
    towers = tower_activations(build_structure(spec, num_classes=3), spec=spec, towers=inputs)
    return activation_bytes(towers, inputs=inputs)


def measured(images, *, autocast):
    """Bytes that autograd really keeps, each storage once, without the parameters."""
    module = load_clip(ModelSpec(name="attune-tiny-32")).module.train()
    weights = {parameter.data_ptr() for parameter in module.parameters()}
    kept = {}

    def remember(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        module.encode_image(torch.zeros(images, 3, 32, 32))
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)


def test_the_estimate_is_what_autograd_keeps():
    assert estimate({"image": 5}, parallel={"precision": "fp32"}) == measured(5, autocast=False)


def test_under_autocast_it_is_so_within_a_percent():
    found = estimate({"image": 5}, parallel={"precision": "amp_bf16"})
    assert found == pytest.approx(measured(5, autocast=True), rel=0.01)


def test_both_towers_count():
    both = estimate({"image": 4, "text": 7})
    assert both == estimate({"image": 4}) + estimate({"text": 7})


def test_a_locked_tower_keeps_next_to_nothing():
    whole = estimate({"image": 64})
    assert estimate({"image": 64}, model={"name": "attune-tiny-32", "image": {"lock": True}}) < whole / 20


def test_frozen_lower_blocks_keep_less():
    frozen = {"name": "attune-tiny-32", "image": {"lock": True, "lock_patterns": ["!resblocks.3"]}}
    assert estimate({"image": 64}, model=frozen) < estimate({"image": 64}) / 2


def test_checkpointing_keeps_less_and_half_precision_half():
    whole = estimate({"image": 64}, parallel={"precision": "fp32"})
    parallel = {"precision": "fp32", "activation_checkpointing": True}
    assert estimate({"image": 64}, parallel=parallel) < whole / 3
    half = estimate({"image": 64}, parallel={"precision": "bf16"})
    assert half == pytest.approx(whole / 2, rel=0.05)


def test_checkpointing_a_tower_that_cannot_is_refused():
    with pytest.raises(ValueError, match=r"parallel\.activation_checkpointing"):
        estimate({"image": 1}, model="RN50", parallel={"activation_checkpointing": True})
