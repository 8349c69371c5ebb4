"""How an attempt tells what was found in its data, and why it ended."""

import errno
import shutil

import pytest
import torch
import torch.distributed as dist

from trainer import events
from trainer.attempt import _reason, _require_good_data
from trainer.errors import UnusableDataError
from trainer.job_dir import JobDir
from trainer.spec import JobSpec


@pytest.fixture(autouse=True)
def one_rank(free_port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def job(tmp_path):
    return JobDir(tmp_path / "job")


def spec_of(train, **data):
    sections = {"model": "attune-tiny-32", "objective": {"name": "class_prompts"}, "batch": {"global_size": 20}}
    return JobSpec.model_validate({**sections, "data": {"train": str(train), **data}})


def test_what_can_be_used_all_the_same_is_told_once_in_a_job(job, digits, tmp_path):
    shutil.copytree(digits / "train", tmp_path / "images")
    (tmp_path / "images/two/03.jpg").write_bytes(b"no image")
    spec = spec_of(tmp_path / "images", on_bad_sample="skip")
    for number in (1, 2):
        job.attempt(number).path.mkdir(parents=True)
        _require_good_data(spec, job=job, attempt=job.attempt(number))
    (told,) = events.read_events(job.attempt(1).events)[0]
    assert told.level == "warn"
    assert told.message.startswith("data.train: 1 images cannot be decoded and are left out: ")
    assert not job.attempt(2).events.exists()


def test_what_cannot_be_used_is_named_with_its_field(job, digits):
    job.attempt(1).path.mkdir(parents=True)
    spec = spec_of(digits / "train", evaluate={"x": "/nowhere"})
    with pytest.raises(UnusableDataError, match=r"^data.evaluate.x.path: .*/nowhere"):
        _require_good_data(spec, job=job, attempt=job.attempt(1))


def test_a_real_lack_of_memory_on_the_cpu_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert _reason(caught.value) == "out_of_memory"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2): out of memory"), "out_of_memory"),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error"),
        (OSError(errno.EIO, "Input/output error"), "error"),
        (UnusableDataError("no images"), "bad_data"),
    ],
)
def test_an_end_has_the_reason_of_its_error(error, reason):
    assert _reason(error) == reason
