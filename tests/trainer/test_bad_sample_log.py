"""Images that go bad while a job trains: told once, counted, stood in for, and the same again after a resume."""

from __future__ import annotations

import shutil

import pytest
import torch.distributed as dist

from dali_pipelines.bad_samples import BadSample
from trainer import events
from trainer.bad_sample_log import BadSampleLog
from trainer.errors import UnusableDataError


@pytest.fixture
def one_rank(free_port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Collected(list):
    """A reporter that keeps what it is told."""

    write = list.append


@pytest.mark.parametrize(("on_bad_sample", "action"), [("skip", "skipped"), ("replace", "replaced")])
@pytest.mark.usefixtures("one_rank")
def test_each_bad_sample_is_told_once_and_counted_by_data_set(on_bad_sample, action):
    log = BadSampleLog(on_bad_sample, num_samples={"train": 10, "evaluate-shifted": 10})
    told = Collected()
    log.report(told)
    assert told == []
    for row in (4, 2, 4):
        log.of("train")(BadSample(row, f"{row}.jpg", "truncated"))
    log.of("evaluate-shifted")(BadSample(2, "s/2.jpg", "gone"))
    log.report(told)
    log.of("train")(BadSample(2, "2.jpg", "truncated"))
    log.of("train")(BadSample(9, "9.jpg", "truncated"))
    log.report(told)
    seen = [(event.dataset, event.key, event.action, event.num_bad) for event in told]
    assert seen == [
        ("train", "4.jpg", action, 1),
        ("train", "2.jpg", action, 2),
        ("shifted", "s/2.jpg", "skipped", 1),
        ("train", "9.jpg", action, 3),
    ]


@pytest.mark.usefixtures("one_rank")
def test_more_bad_samples_than_are_allowed_end_the_attempt():
    log = BadSampleLog("skip", num_samples={"train": 20, "evaluate-shifted": 20}, max_bad_share=0.1)
    told = Collected()
    log.of("train")(BadSample(0, "a.tar/0.jpg", "truncated"))
    log.of("train")(BadSample(1, "a.tar/1.jpg", "truncated"))
    log.of("evaluate-shifted")(BadSample(1, "b.tar/1.jpg", "gone"))
    log.report(told)
    log.of("train")(BadSample(7, "b.tar/7.jpg", "gone"))
    with pytest.raises(UnusableDataError, match=r"data.train: 3 of 20 .* 2 of them in 'a.tar', 2 .*: truncated"):
        log.report(told)
    assert len(told) == 4


@pytest.mark.slow
@pytest.mark.nightly
def test_files_that_go_bad_while_a_job_trains(launch, digits_spec, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "images")
    train, heldout = tmp_path / "images/train", tmp_path / "images/heldout"
    settings = {
        "data.train": train,
        "data.validation": heldout,
        "data.on_bad_sample": "replace",
        "schedule.max_steps": 24,
        "checkpoint.every_steps": 12,
        "evaluation.every_steps": 12,
        "log_every_steps": 1,
    }
    arguments = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    run = launch("job", "--spec", str(digits_spec), *arguments)
    run.wait_for_step(2)
    (train / "two/03.jpg").unlink()
    (train / "seven/11.jpg").write_bytes(b"\xff\xd8 no longer an image")
    (heldout / "five/30.jpg").unlink()
    assert run.wait().status == "succeeded", run.log.read_text()[-3000:]

    def bad(attempt: int) -> dict[str, events.BadSample]:
        read, _ = events.read_events(run.job.attempt(attempt).events)
        found = [event for event in read if isinstance(event, events.BadSample)]
        assert len({event.key for event in found}) == len(found)
        assert [event.num_bad for event in found if event.dataset == "train"] == list(range(1, 3))[: len(found)]
        return {"/".join(event.key.split("/")[-3:]): event for event in found}

    told = bad(1)
    assert set(told) == {"train/two/03.jpg", "train/seven/11.jpg", "heldout/five/30.jpg"}
    assert told["train/two/03.jpg"].reason == "the file does not exist"
    assert told["heldout/five/30.jpg"].action == "skipped"
    measured = [e for e in events.read_events(run.job.attempt(1).events)[0] if isinstance(e, events.Evaluation)]
    assert {event.num_samples for event in measured[-2:]} == {79}

    losses = run.steps()
    shutil.rmtree(run.job.checkpoints / "step-24-attempt-1")
    resumed = launch("job", "--resume")
    assert resumed.wait().status == "succeeded", resumed.log.read_text()[-3000:]
    assert resumed.steps() == {step: loss for step, loss in losses.items() if step > 12}
