import pytest

from trainer.plan.memory import Load, input_bytes, memory_by_stage, optimizer_bytes
from trainer.spec import JobSpec


def stages(*, optim=None, objective=None, load=None, trained=1000, frozen=0, devices=4, activations=0, **parallel):
    spec = JobSpec.model_validate(
        {
            "model": "ViT-B-32",
            "optim": optim or {},
            "objective": objective or {"name": "contrastive"},
            "parallel": parallel,
        }
    )
    sizes = {"trained": trained, "frozen": frozen, "devices": devices, "activations": activations, **(load or {})}
    return memory_by_stage(spec, Load(**sizes))


def test_the_example_of_the_zero_paper():
    """Figure 1 of https://arxiv.org/abs/1910.02054: 7.5 billion parameters on 64 devices, mixed-precision Adam."""
    found = stages(trained=7_500_000_000, devices=64, precision="fp16", zero_stage=1)
    of_model = [sum(found[stage][part] for part in ("weights", "gradients", "optimizer")) for stage in "123"]
    assert [round(size / 1e9, 1) for size in of_model] == [31.4, 16.6, 1.9]


def test_full_precision_without_zero_keeps_weights_gradients_and_two_moments():
    found = stages(precision="fp32", zero_stage=0)["0"]
    assert (found["weights"], found["gradients"], found["optimizer"], found["total"]) == (4000, 4000, 8000, 16_000)


def test_zero_adds_a_master_copy_and_shards_it():
    found = stages(precision="amp_bf16")
    assert [found[stage]["optimizer"] for stage in "0123"] == [8000, 3000, 3000, 3000]
    assert [found[stage]["gradients"] for stage in "0123"] == [4000, 4000, 1000, 1000]
    assert [found[stage]["weights"] for stage in "0123"] == [4000, 4000, 4000, 1000]


def test_half_precision_without_zero_runs_as_stage_one():
    found = stages(precision="bf16", zero_stage=0)
    assert found["0"] == found["1"]
    assert (found["0"]["weights"], found["0"]["optimizer"]) == (2000, 3000)


def test_frozen_parameters_are_weights_only():
    found = stages(frozen=9000, precision="fp32")
    assert [found[stage]["weights"] for stage in "0123"] == [40_000, 40_000, 40_000, 10_000]
    assert found["0"]["gradients"] == 4000


@pytest.mark.parametrize(
    ("optim", "size"),
    [
        ({"name": "adamw"}, 8),
        ({"name": "adadelta"}, 8),
        ({"name": "lion"}, 4),
        ({"name": "sgd"}, 4),
        ({"name": "sgd", "momentum": 0.0}, 0),
        ({"name": "rmsprop"}, 8),
        ({"name": "rmsprop", "momentum": 0.0}, 4),
    ],
)
def test_what_each_optimizer_remembers(optim, size):
    spec = JobSpec.model_validate({"model": "ViT-B-32", "optim": optim})
    assert optimizer_bytes(spec.optim) == size


def test_the_average_and_the_starting_weights_take_four_bytes_each():
    plain = stages(precision="fp32")["0"]
    averaged = stages(precision="fp32", optim={"ema_decay": 0.99})["0"]
    assert (plain["ema"], averaged["ema"]) == (0, 4000)
    pulled = stages(precision="fp32", objective={"name": "classification", "l2_sp": 0.1})["0"]
    assert pulled["optimizer"] == plain["optimizer"] + 4000


def test_what_is_offloaded_leaves_the_device_where_the_stage_allows_it():
    found = stages(precision="fp32", zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")
    assert found["0"]["host"] == 0
    assert (found["1"]["optimizer"], found["1"]["host"]) == (0, 3000)
    assert (found["3"]["weights"], found["3"]["host"]) == (0, 4000)


def test_activations_are_the_same_in_every_stage():
    assert {row["activations"] for row in stages(activations=77).values()} == {77}


def test_a_single_device_has_nothing_to_shard():
    found = stages(devices=1, precision="amp_bf16")
    assert found["0"] == found["1"] == found["2"]
    assert found["3"]["optimizer"] == 12_000
    offloaded = stages(devices=1, precision="amp_bf16", zero_stage=1, offload_optimizer="cpu")
    assert offloaded["1"]["host"] == 12_000


def test_activations_give_way_to_gradients_within_one_micro_batch():
    kept = 4000 + 8000
    few, many = (stages(precision="fp32", activations=size)["0"]["total"] for size in (100, 9000))
    assert (few - kept, many - kept) == (4000, 9000)
    accumulating = stages(precision="fp32", activations=9000, load={"accumulation": 2})["0"]
    assert accumulating["total"] - kept == 4000 + 9000


def test_deepspeeds_buffers_hold_what_a_stage_would_save_of_a_small_model():
    found = stages(precision="fp32", frozen=9000)
    assert [found[stage]["buffers"] for stage in "0123"] == [0, 1000, 4000, 4000 + 40_000]
    large = stages(trained=10**9, precision="bf16", devices=8)
    assert [large[stage]["buffers"] for stage in "123"] == [2 * 10**9 // 8, 10**9, 10**9 + 2 * 10**9]


def test_images_ahead_are_counted_with_the_batch_in_use():
    spec = JobSpec.model_validate({"model": "ViT-B-32", "data": {"decoder": {"prefetch_batches": 3}}})
    inputs = input_bytes(spec, micro_size=8, image_size=224)
    assert inputs == 4 * 8 * 3 * 224 * 224 * 4
    plain, ahead = stages()["0"], stages(load={"inputs": inputs})["0"]
    assert (ahead["inputs"], ahead["total"] - plain["total"]) == (inputs, inputs)
