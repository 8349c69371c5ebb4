"""Real DeepSpeed launches of models with additions: they train under ZeRO, are evaluated, exported and load again."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from trainer import events
from trainer.models import load_clip
from trainer.spec import ModelSpec
from trainer.stored_classifiers import read_classifier

pytestmark = pytest.mark.slow


def options(spec, *settings):
    """The arguments for a spec file and `--set` overrides."""
    return ("--spec", str(spec), *(word for setting in settings for word in ("--set", setting)))


def finished(run):
    """The launch's job, once it has succeeded with finite losses."""
    assert run.wait().status == "succeeded", run.log.read_text()[-3000:]
    assert all(math.isfinite(loss) for loss in run.steps().values())
    return run.job


def test_heads_prompt_and_adapters_train_on_locked_towers_under_stage_three(launch, digits_spec):
    run = launch(
        "job",
        *options(
            digits_spec,
            "parallel.zero_stage=3",
            "parallel.precision=amp_bf16",
            "model.image={lock: true, head: {layers: 2, output_size: 32}}",
            "model.text={lock: true, adapter: {method: lora}, prompt: {length: 3}, head: {output_size: 32}}",
            "optim.lr=1e-2",
            "schedule.max_steps=5",
        ),
    )
    job = finished(run)
    folder = job.export
    model = load_clip(ModelSpec(name=f"local-dir:{folder}"))
    assert json.loads((folder / "attune.json").read_text())["extras"].keys() == {
        "image_head",
        "text_head",
        "text_prompt",
    }
    torch.manual_seed(0)
    start = load_clip(ModelSpec(name="attune-tiny-32")).module.state_dict()
    base = load_file(folder / "open_clip_model.safetensors")
    moved = {name for name in base if not torch.equal(base[name], start[name].reshape(base[name].shape))}
    blocks = [name for name in moved if name.startswith("transformer.resblocks.")]
    assert moved == {"logit_scale", *blocks}  # what adapters were merged into
    assert len(blocks) == 2 * 4  # attention in and out, and the two layers of the MLP, in each of two blocks
    assert model.module.text_prompt.vectors.std() > 0.02  # trained away from its first values


@pytest.mark.nightly
def test_a_classifier_on_unit_norm_features_is_trained_evaluated_and_exported(launch, digits_spec):
    run = launch(
        "job",
        *options(
            digits_spec,
            "recipe=null",
            "objective={name: classification, features: projected, head: zero_shot}",
            "parallel.zero_stage=3",
            "model.image={drop_path: 0.1, dropout: 0.1}",
            "schedule.max_steps=5",
            "evaluation.before_training=true",
        ),
    )
    job = finished(run)
    model = read_classifier(job.export)
    assert model.features == "projected"
    measured = [event for event in events.read_events(job.attempt(1).events)[0] if event.type == "evaluation"]
    assert {event.step for event in measured} == {0, 5}
    first = run.steps()[1]
    assert first > math.log(10) + 0.3  # a zero-shot head starts at the temperature of the logit scale
    assert model.module.head.weight.norm(dim=1).mean().item() == pytest.approx(1 / 0.07, rel=0.2)
