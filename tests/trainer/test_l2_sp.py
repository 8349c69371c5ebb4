"""L2-SP where its state is hardest to keep: in ZeRO-3's partitions, over an interruption, with timm's Lion."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from trainer.l2_sp import pull_to_start
from trainer.parameter_files import ParameterFiles


def test_it_leaves_the_first_step_alone_and_pulls_from_the_second_on():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    pull_to_start(optimizer, strength=0.25)
    history = []
    for gradient in (1.0, 0.0, 0.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        history.append(weight[0].item())
    assert history == [0.5, 0.5 + 0.5 * 2 * 0.25 * 0.5, 0.625 + 0.5 * 2 * 0.25 * (1 - 0.625)]


def test_parameters_without_a_gradient_are_left_alone():
    weight, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([weight, unused], lr=0.5)
    pull_to_start(optimizer, strength=0.25)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert unused not in optimizer.state
    assert torch.equal(unused.detach(), torch.ones(2))


@pytest.mark.slow
@pytest.mark.nightly
def test_a_resumed_run_is_pulled_to_the_first_weights_still(launch, digits_spec):
    settings = (
        *("objective={name: classification, head: fresh, l2_sp: 3}", "optim.name=lion", "optim.ema_decay=null"),
        *("parallel.zero_stage=3", "schedule.warmup_steps=0", "export.checkpoint=last"),
    )
    options = [word for setting in settings for word in ("--set", setting)]
    run = launch("job", "--spec", str(digits_spec), *options)
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    whole, losses = load_file(exported_weights(run.job)), run.steps()
    shutil.rmtree(run.job.checkpoints / "step-10-attempt-1")

    resumed = launch("job", "--resume")
    assert resumed.wait().status == "succeeded", resumed.log.read_text()[-2000:]
    assert resumed.steps() == {step: loss for step, loss in losses.items() if step > 5}
    again = load_file(exported_weights(run.job))
    assert not [name for name in whole if not torch.equal(whole[name], again[name])]
    before, after = (starts_and_weights(run.job, name) for name in ("step-5-attempt-1", "step-10-attempt-2"))
    assert len(before) == len(after) > 0
    for (start, weights), (later_start, later_weights) in zip(before, after, strict=True):
        assert torch.equal(start, later_start)
        assert not torch.equal(start, weights)
        assert not torch.equal(weights, later_weights)


def starts_and_weights(job, checkpoint):
    """Starting and present weights of each parameter, but for the head's, which are not pulled."""
    files = ParameterFiles(job.checkpoints / checkpoint / "parameters")
    return [(files.whole("start", name), files.whole("master", name)) for name in files.names("start")]


def exported_weights(job):
    return next(job.export.glob("*.safetensors"))
