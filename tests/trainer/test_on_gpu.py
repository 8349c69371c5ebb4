"""Training on an NVIDIA GPU: every precision and ZeRO stage runs, learns, and goes on where it stopped."""

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("precision", "stage"),
    [("fp32", 0), ("amp_bf16", 0), ("amp_bf16", 1), ("bf16", 2), ("fp16", 2), ("amp_bf16", 3)],
)
def test_one_gpu_trains_and_resumes(launch, digits_spec, precision, stage):
    settings = (f"parallel.precision={precision}", f"parallel.zero_stage={stage}", "parallel.devices=1")
    arguments = ("--spec", str(digits_spec), *(word for setting in settings for word in ("--set", setting)))
    run = launch("job", *arguments, ranks=1, accelerator="cuda")
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    losses = run.steps()
    assert losses[10] < losses[1]

    latest = run.job.published_checkpoints()[-1]
    run.job.checkpoint(latest).rename(run.job.path / "set-aside")
    resumed = launch("job", "--resume", ranks=1, accelerator="cuda")
    assert resumed.wait().status == "succeeded", resumed.log.read_text()[-2000:]
    assert list(resumed.steps()) == [6, 7, 8, 9, 10]
    assert resumed.steps()[10] == pytest.approx(losses[10], rel=1e-2)
