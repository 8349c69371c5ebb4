import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from trainer import checkpoint
from trainer.checkpoint_room import recognising_a_full_disk
from trainer.errors import DiskFullError
from trainer.job_dir import CheckpointName, JobDir, write_json_atomically
from trainer.resolve import resolve
from trainer.spec import CheckpointSpec

SIXTEEN_MEBIBYTES = torch.zeros(2**22)


def save_with_torch(folder):
    torch.save(SIXTEEN_MEBIBYTES, folder / "state.pt")


def save_with_safetensors(folder):
    save_file({"state": SIXTEEN_MEBIBYTES}, folder / "state.safetensors")


def save_with_python(folder):
    (folder / "state").write_bytes(bytes(2**24))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("save", [save_with_torch, save_with_safetensors, save_with_python])
def test_a_disk_that_fills_while_saving_is_recognised_and_gets_its_room_back(tmp_path, small_disk, save):
    small_disk(tmp_path / "checkpoints", mebibytes=8)
    partial = tmp_path / "checkpoints" / ".step-1-attempt-1.partial"
    partial.mkdir()
    with (
        pytest.raises(DiskFullError, match="no room left") as caught,
        recognising_a_full_disk(partial, needed=2**24),
    ):
        save(partial)
    assert caught.value.errno == errno.ENOSPC
    assert not partial.exists()


def test_other_failures_keep_their_own_words(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), recognising_a_full_disk(tmp_path, needed=1):
        raise RuntimeError("something else")


def published(job, step, metrics, attempt=1):
    spec = resolve(spec={"model": "attune-tiny-32", "data": {"train": "pairs.csv"}})
    name = CheckpointName(step, attempt)
    record = checkpoint.CheckpointRecord(step=step, attempt=attempt, world_size=2, metrics=metrics, spec=spec)
    write_json_atomically(job.checkpoint(name) / "checkpoint.json", record)
    return name


def test_the_policy_keeps_the_latest_and_the_best(tmp_path):
    job = JobDir(tmp_path)
    names = [published(job, step, {"validation/top1": top1}) for step, top1 in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6))]
    names.append(published(job, 5, {}))

    def kept(**policy):
        removed = checkpoint.superseded(job, spec=CheckpointSpec(**policy), metric="validation/top1")
        return [name.step for name in names if name not in removed]

    assert kept(keep_latest=1, keep_best=1) == [2, 5]
    assert kept(keep_latest=2, keep_best=2) == [2, 3, 4, 5]
    assert kept(keep_latest=1, keep_best=0) == [5]
    assert checkpoint.best(job, metric="validation/top1") == names[1]
    assert checkpoint.best(job, metric="validation/top5") is None


def test_the_later_of_equals_is_the_best(tmp_path):
    job = JobDir(tmp_path)
    names = [published(job, step, {"m/top1": 0.5}) for step in (1, 2)]
    assert checkpoint.best(job, metric="m/top1") == names[1]


def test_leftovers_of_earlier_attempts_are_removed_and_no_others(tmp_path):
    job = JobDir(tmp_path)
    keep = published(job, 3, {})
    for name in (".step-4-attempt-1.partial", ".step-2-attempt-1.removed", ".step-9-attempt-2.partial"):
        (job.checkpoints / name).mkdir()
    checkpoint.remove_leftovers(job, before_attempt=2)
    assert sorted(path.name for path in job.checkpoints.iterdir()) == [".step-9-attempt-2.partial", str(keep)]


def test_a_removed_checkpoint_is_gone_at_once(tmp_path):
    job = JobDir(tmp_path)
    checkpoint.remove(job, published(job, 3, {}))
    assert list(job.checkpoints.iterdir()) == []
