"""Real launches: what the loop keeps from one attempt to the next, and the model it begins with as a candidate."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.fixture
def distillation_spec(digits_spec):
    """SEED with its queue and InfoNCE beside it, in batches that run on across epochs."""
    spec = yaml.safe_load(digits_spec.read_text())
    del spec["recipe"]
    spec["objective"] = {
        "name": "distillation",
        "teacher": "attune-tiny-32",
        "loss": "seed",
        "queue_size": 90,
        "contrastive_weight": 0.5,
    }
    spec["data"] |= {"epoch_end": "continue", "long_texts": "truncate"}
    spec["data"]["templates"] = ["a photo of the digit {}.", "the number {} " + "and so on " * 20]
    spec["batch"] = {"global_size": 200, "micro_size": 50}
    spec["schedule"] = {"max_steps": 4}
    spec["checkpoint"] = {"every_steps": 2, "keep_latest": 3, "at_start": True}
    spec["parallel"]["zero_stage"] = 2
    digits_spec.write_text(yaml.safe_dump(spec))
    return digits_spec


def messages(job):
    lines = job.attempt(1).events.read_text().splitlines()
    return [event["message"] for event in map(json.loads, lines) if event["type"] == "message"]


@pytest.mark.nightly
def test_queues_and_the_starting_model_survive_in_checkpoints(launch, distillation_spec):
    first = launch("job", "--spec", str(distillation_spec))
    assert first.wait().status == "succeeded", first.log.read_text()[-3000:]
    whole, losses = load_file(first.job.export / "open_clip_model.safetensors"), first.steps()
    names = [str(name) for name in first.job.published_checkpoints()]
    assert names == ["step-0-attempt-1", "step-2-attempt-1", "step-4-attempt-1"]
    start = json.loads((first.job.checkpoints / names[0] / "checkpoint.json").read_text())
    assert "validation/top1" in start["metrics"]
    assert any("10 prompts need more than the text tower's 16 tokens" in message for message in messages(first.job))

    for begin in (2, 0):
        for name in first.job.published_checkpoints():
            if name.step > begin:
                shutil.rmtree(first.job.checkpoint(name))
        resumed = launch("job", "--resume")
        assert resumed.wait().status == "succeeded", resumed.log.read_text()[-3000:]
        assert resumed.steps() == {step: loss for step, loss in losses.items() if step > begin}
        again = load_file(first.job.export / "open_clip_model.safetensors")
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
