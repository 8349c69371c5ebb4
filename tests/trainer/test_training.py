"""Real DeepSpeed launches: what a job computes, and that nothing is lost when it is stopped."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from trainer.models import load_clip
from trainer.parameter_state import read_weights
from trainer.spec import ModelSpec

pytestmark = pytest.mark.slow


def exported(job):
    return load_file(job.export / "open_clip_model.safetensors")


def assert_bit_equal(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def options(spec, *settings):
    """The arguments for a spec file and `--set` overrides."""
    return ("--spec", str(spec), *(word for setting in settings for word in ("--set", setting)))


def delete_checkpoint(job, name):
    shutil.rmtree(job.checkpoints / name)


@pytest.fixture(scope="module")
def stage_losses():
    """Losses by ZeRO stage, to compare over the tests of this module."""
    return {}


_NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize("stage", [pytest.param(0, marks=_NIGHTLY), pytest.param(2, marks=_NIGHTLY), 3])
def test_a_resumed_run_equals_the_undisturbed_one(launch, digits_spec, stage, stage_losses):
    run = launch("job", *options(digits_spec, f"parallel.zero_stage={stage}", "export.weights=ema"))
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    whole, losses = exported(run.job), run.steps()
    stage_losses[stage] = list(losses.values())
    delete_checkpoint(run.job, "step-10-attempt-1")

    resumed = launch("job", "--resume")
    assert resumed.wait().status == "succeeded", resumed.log.read_text()[-2000:]
    assert json.loads(run.job.attempt(2).start.read_text()) == {"checkpoint": "step-5-attempt-1", "step": 5}
    assert resumed.steps() == {step: loss for step, loss in losses.items() if step > 5}
    assert_bit_equal(exported(run.job), whole)


@_NIGHTLY
def test_all_stages_compute_the_same_losses(stage_losses):
    if len(stage_losses) < 3:
        pytest.skip("needs the losses of the test above for all stages")
    for stage in (2, 3):
        assert stage_losses[stage] == pytest.approx(stage_losses[0], rel=1e-4)
    assert stage_losses[0][-1] < stage_losses[0][0] - 0.1


@_NIGHTLY
@pytest.mark.parametrize(
    "settings",
    [
        ("parallel.zero_stage=1", "parallel.offload_optimizer=cpu"),
        ("parallel.zero_stage=3", "parallel.offload_optimizer=cpu", "parallel.offload_parameters=cpu"),
        ("parallel.zero_stage=2", "parallel.activation_checkpointing=true"),
        ("parallel.zero_stage=1", "parallel.compile=true"),
    ],
    ids=lambda settings: settings[-1].split(".")[1],
)
def test_ways_to_compute_do_not_change_the_losses(launch, digits_spec, settings, stage_losses):
    if 0 not in stage_losses:
        pytest.skip("needs the losses of stage 0 from the test above")
    if "parallel.compile=true" in settings and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    run = launch("job", *options(digits_spec, *settings, "schedule.max_steps=10", "checkpoint.every_steps=10"))
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    assert list(run.steps().values()) == pytest.approx(stage_losses[0], rel=1e-3)


@_NIGHTLY
def test_the_moving_average_is_that_of_the_gathered_weights(launch, digits_spec):
    """Every step is saved with raw weights; their average by hand equals the exported one."""
    arguments = ["--spec", str(digits_spec), "--set", "parallel.zero_stage=2", "--set", "schedule.max_steps=4"]
    arguments += ["--set", "checkpoint.every_steps=1", "--set", "checkpoint.keep_latest=9"]
    run = launch("job", *arguments, "--set", "export.weights=ema")
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    average = exported(run.job)["visual.conv1.weight"]

    saved = [run.job.checkpoint(name) for name in run.job.published_checkpoints()]
    weights = [read_weights(folder)["visual.conv1.weight"] for folder in saved]
    torch.manual_seed(0)
    expected = load_clip(ModelSpec(name="attune-tiny-32")).module.visual.conv1.weight.detach()
    for weight in weights:
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(average, expected, atol=1e-7)
    assert torch.equal(average, read_weights(saved[-1], kind="ema")["visual.conv1.weight"])
    assert not torch.allclose(average, weights[-1], atol=1e-5)


@_NIGHTLY
def test_a_killed_worker_takes_the_others_along_and_the_job_goes_on(launch, digits_spec):
    settings = ("schedule.max_steps=40", "evaluation.every_steps=40", "checkpoint.every_steps=10")
    arguments = ("--spec", str(digits_spec), *(word for setting in settings for word in ("--set", setting)))
    undisturbed = launch("undisturbed", *arguments)
    assert undisturbed.wait().status == "succeeded", undisturbed.log.read_text()[-2000:]

    run = launch("job", *arguments)
    run.wait_for_step(12)
    run.workers()[-1].kill()
    assert run.wait(120) is None
    assert not run.members()

    resumed = launch("job", "--resume")
    assert resumed.wait().status == "succeeded", resumed.log.read_text()[-2000:]
    assert_bit_equal(exported(run.job), exported(undisturbed.job))


def test_a_killed_launcher_leaves_no_orphan_and_a_checkpoint(launch, digits_spec):
    run = launch("job", "--spec", str(digits_spec), "--set", "schedule.max_steps=2000")
    run.wait_for_step(7)
    run.process.send_signal(signal.SIGKILL)
    record = run.wait(120)
    assert (record.status, record.reason) == ("interrupted", "signal")
    assert record.step == run.job.published_checkpoints()[-1].step >= 7


def test_sigterm_to_the_group_checkpoints_and_records_interrupted(launch, digits_spec):
    run = launch("job", "--spec", str(digits_spec), "--set", "schedule.max_steps=2000")
    run.wait_for_step(7)
    os.killpg(run.process.pid, signal.SIGTERM)
    record = run.wait(120)
    assert (record.status, record.reason) == ("interrupted", "signal")
    assert record.step == run.job.published_checkpoints()[-1].step


@_NIGHTLY
def test_an_interrupted_evaluation_is_made_up_for(launch, digits_spec):
    """A signal in the step before an evaluation: the checkpoint there gets its metrics after all."""
    run = launch("job", *options(digits_spec, "schedule.max_steps=400", "evaluation.every_steps=1"))
    run.wait_for_step(5)
    os.killpg(run.process.pid, signal.SIGTERM)
    stopped = run.wait(120)
    assert stopped.status == "interrupted"
    name = run.job.published_checkpoints()[-1]
    record = run.job.checkpoint(name) / "checkpoint.json"
    assert json.loads(record.read_text())["metrics"] == {}

    resumed = launch("job", "--resume")
    resumed.wait_until(lambda: json.loads(record.read_text())["metrics"] or resumed.process.poll() is not None)
    assert "validation/top1" in json.loads(record.read_text())["metrics"]


@_NIGHTLY
def test_a_non_finite_loss_stops_with_step_and_last_good_checkpoint(launch, digits_spec):
    settings = ("optim.lr=1e30", "optim.clip_grad_norm=null", "schedule.warmup_steps=0", "checkpoint.every_steps=1")
    run = launch("job", "--spec", str(digits_spec), *(word for s in settings for word in ("--set", s)))
    record = run.wait()
    assert (record.status, record.reason) == ("failed", "non_finite_loss")
    assert "step 2" in record.message
    assert "step-1-attempt-1" in record.message
    assert [str(name) for name in run.job.published_checkpoints()] == ["step-1-attempt-1"]


@pytest.mark.parametrize(
    ("setting", "reason", "words"),
    [
        pytest.param("parallel.devices=4", "bad_spec", ["parallel.devices 4", "2 ranks"], marks=_NIGHTLY),
        pytest.param("model.freeze=[nothing.*]", "bad_spec", ["model.freeze", "nothing.*"], marks=_NIGHTLY),
        ("data.validation=/nowhere", "bad_data", ["/nowhere", "does not exist"]),
    ],
)
def test_a_job_that_cannot_run_says_why(launch, digits_spec, setting, reason, words):
    run = launch("job", "--spec", str(digits_spec), "--set", setting)
    record = run.wait()
    assert (record.status, record.reason) == ("failed", reason)
    for word in words:
        assert word in record.message


@_NIGHTLY
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_keeps_the_last_good_checkpoint(launch, digits_spec, tmp_path, small_disk):
    small_disk(tmp_path / "job" / "checkpoints", mebibytes=150)
    run = launch("job", *options(digits_spec))
    record = run.wait()
    assert (record.status, record.reason) == ("failed", "disk_full")
    assert "MiB" in record.message
    assert [str(name) for name in run.job.published_checkpoints()] == ["step-5-attempt-1"]
