import json
from pathlib import Path

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

import ds_configs
from trainer.deepspeed_config import build_config
from trainer.resolve import SpecError, resolve

SHIPPED = sorted(Path(ds_configs.__file__).parent.glob("*.json"))


def spec_with(**parallel):
    return resolve(
        spec={
            "model": "attune-tiny-32",
            "data": {"train": "pairs.csv"},
            "batch": {"global_size": 64},
            "optim": {"clip_grad_norm": 1.5},
            "parallel": {"nvme_path": "/nvme", **parallel},
        }
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_filled_from_the_spec(path):
    config = build_config(spec_with(deepspeed_config=str(path)), world_size=2, micro_size=8)
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] == 8
    assert config["gradient_accumulation_steps"] == 4
    stage = int(path.stem[4])
    assert config["gradient_clipping"] == (1.5 if stage else 0.0)  # at stage 0 the optimizer clips
    assert config["torch_autocast"]["enabled"] is True
    assert config["bf16"]["enabled"] is config["fp16"]["enabled"] is False
    assert '"auto"' not in json.dumps(config)
    assert DeepSpeedZeroConfig(**config["zero_optimization"]).stage == stage


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("zero1-offload-cpu", {"zero_stage": 1, "offload_optimizer": "cpu"}),
        ("zero2-offload-cpu", {"zero_stage": 2, "offload_optimizer": "cpu"}),
        ("zero3-offload-cpu", {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"}),
        ("zero3-offload-nvme", {"zero_stage": 3, "offload_optimizer": "nvme", "offload_parameters": "nvme"}),
    ],
)
def test_offload_files_equal_what_the_spec_selects(name, parallel):
    path = next(p for p in SHIPPED if p.stem == name)
    by_hand = build_config(spec_with(deepspeed_config=str(path)), world_size=1, micro_size=8)
    assert build_config(spec_with(**parallel), world_size=1, micro_size=8) == by_hand


@pytest.mark.parametrize(
    "setting",
    [
        {"train_batch_size": 8},
        {"gradient_clipping": 1.0},
        {"bf16": {"enabled": True}},
        {"optimizer": {"type": "Adam"}},
        {"scheduler": {}},
    ],
)
def test_a_file_that_decides_what_the_spec_decides_is_refused(tmp_path, setting):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}, **setting}))
    with pytest.raises(SpecError, match=next(iter(setting))):
        spec_with(deepspeed_config=str(path))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(SpecError, match=r"mine\.json"):
        spec_with(deepspeed_config=str(path))


def test_a_missing_file_is_refused():
    with pytest.raises(SpecError, match=r"parallel\.deepspeed_config.*nowhere\.json"):
        spec_with(deepspeed_config="nowhere.json")


@pytest.mark.parametrize(("precision", "stage"), [("bf16", 1), ("fp16", 1), ("amp_bf16", 0), ("fp32", 0)])
def test_low_precision_stage_0_runs_as_stage_1(precision, stage):
    config = build_config(spec_with(zero_stage=0, precision=precision), world_size=1, micro_size=8)
    assert config["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize(
    ("parallel", "world_size", "stage"),
    [
        ({"zero_stage": 1}, 1, 0),
        ({"zero_stage": 2, "precision": "fp32"}, 1, 0),
        ({"zero_stage": 2, "precision": "bf16"}, 1, 2),
        ({"zero_stage": 2}, 2, 2),
        ({"zero_stage": 3}, 1, 3),
        ({"zero_stage": 1, "offload_optimizer": "cpu"}, 1, 1),
    ],
)
def test_a_single_device_shards_nothing(parallel, world_size, stage):
    config = build_config(spec_with(**parallel), world_size=world_size, micro_size=8)
    assert config["zero_optimization"]["stage"] == stage
