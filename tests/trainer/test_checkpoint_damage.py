"""A checkpoint that a disk has changed is never used, and somebody is told."""

import json

import pytest
import torch
import torch.distributed as dist

from trainer.attempt import _open_attempt
from trainer.checkpoint import CheckpointRecord, best, superseded
from trainer.checkpoint_damage import damage, require_whole, set_damaged_aside
from trainer.checkpoint_sums import find_damage, sum_files
from trainer.errors import UnusableDataError
from trainer.events import read_events
from trainer.job_dir import CheckpointName, JobDir, write_json_atomically
from trainer.parameter_files import Part, write_parts
from trainer.resolve import resolve
from trainer.spec import CheckpointSpec

WEIGHTS = "parameters/master-rank-0.safetensors"


@pytest.fixture(autouse=True)
def one_rank(free_port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def job(tmp_path):
    """Three checkpoints, the latest the best."""
    job = JobDir(tmp_path / "job")
    for step in (10, 20, 30):
        publish(job, step)
    return job


def publish(job, step):
    name = CheckpointName(step, 1)
    folder = job.checkpoint(name)
    (folder / "parameters").mkdir(parents=True)
    write_parts(folder / "parameters", "master", [Part("w", (64,), 0, torch.full((64,), float(step)))], rank=0)
    (folder / "engine.json").write_text("{}")
    spec = resolve(spec={"model": "attune-tiny-32", "data": {"train": "pairs.csv"}})
    record = CheckpointRecord(
        step=step, attempt=1, world_size=2, metrics={"m/top1": step / 100}, spec=spec, files=sum_files(folder)
    )
    write_json_atomically(folder / "checkpoint.json", record)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("file", "harm", "told"),
    [
        (WEIGHTS, flip_a_bit, f"{WEIGHTS} has other content than was written"),
        (WEIGHTS, cut_off, f"{WEIGHTS} has "),
        (WEIGHTS, lambda path: path.unlink(), f"{WEIGHTS} is missing"),
        ("engine.json", flip_a_bit, "engine.json has other content"),
        ("checkpoint.json", cut_off, "checkpoint.json is missing or cannot be understood"),
        ("checkpoint.json", lambda path: path.unlink(), "checkpoint.json is missing"),
    ],
)
def test_whatever_has_changed_is_named(job, file, harm, told):
    name = CheckpointName(30, 1)
    assert damage(job, name) is None
    harm(job.checkpoint(name) / file)
    assert told in damage(job, name)
    with pytest.raises(UnusableDataError, match="step-30-attempt-1 is damaged: "):
        require_whole(job, name)


def test_a_folder_that_holds_another_checkpoint_is_noticed(job):
    job.checkpoint(CheckpointName(10, 1)).rename(job.checkpoint(CheckpointName(40, 1)))
    assert damage(job, CheckpointName(40, 1)) == "checkpoint.json is of step 10, attempt 1"


def test_sums_are_of_all_files_but_the_record(job):
    record = json.loads((job.checkpoint(CheckpointName(10, 1)) / "checkpoint.json").read_text())
    assert sorted(record["files"]) == ["engine.json", WEIGHTS]
    assert find_damage(job.checkpoint(CheckpointName(10, 1)), {}) is None


def test_an_attempt_goes_on_from_the_latest_whole_one_and_tells(job, capsys):
    for step in (20, 30):
        flip_a_bit(job.checkpoint(CheckpointName(step, 1)) / WEIGHTS)
    attempt = job.attempt(2)
    attempt.path.mkdir(parents=True)
    _open_attempt(attempt, job=job, resume=True)
    assert job.published_checkpoints() == [CheckpointName(10, 1)]
    assert (job.checkpoints / "damaged-step-30-attempt-1" / WEIGHTS).exists()
    told = [event.message for event in read_events(attempt.events)[0]]
    assert len(told) == 2
    assert all("is damaged and is not used" in message and WEIGHTS in message for message in told)
    assert "warn: checkpoint step-20-attempt-1" in capsys.readouterr().out


def test_where_nothing_whole_is_left_that_is_told_too(job):
    for step in (10, 20, 30):
        (job.checkpoint(CheckpointName(step, 1)) / WEIGHTS).unlink()
    attempt = job.attempt(2)
    attempt.path.mkdir(parents=True)
    _open_attempt(attempt, job=job, resume=True)
    assert read_events(attempt.events)[0][-1].message.endswith("training begins anew")


def test_older_ones_are_looked_at_only_where_they_are_needed(job):
    flip_a_bit(job.checkpoint(CheckpointName(10, 1)) / WEIGHTS)
    assert set_damaged_aside(job) == []
    assert len(job.published_checkpoints()) == 3


def test_a_record_that_cannot_be_read_ranks_nothing_and_ends_nothing(job):
    cut_off(job.checkpoint(CheckpointName(30, 1)) / "checkpoint.json")
    assert best(job, metric="m/top1") == CheckpointName(20, 1)
    policy = CheckpointSpec(keep_latest=1, keep_best=1)
    assert superseded(job, spec=policy, metric="m/top1") == [CheckpointName(10, 1)]
