from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.manifest import Manifest
from dali_pipelines.stage_times import StageTimes
from dali_pipelines.transforms import Preprocess
from trainer import events
from trainer.data_wait import DataWaitWatch, diagnosis
from trainer.spec import JobSpec


class Written(list):
    """What a reporter would write."""

    def write(self, event):
        self.append(event)


@pytest.fixture
def run(tmp_path):
    """As much of a run as is looked at; its data are eight images."""
    for number in range(8):
        Image.fromarray(np.full((40, 60, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.jpg")
    manifest = Manifest.from_columns(tmp_path, paths=[f"{n}.jpg" for n in range(8)], sizes=[(60, 40)] * 8)
    spec = JobSpec.model_validate(
        {
            "model": "attune-tiny-32",
            "objective": {"name": "contrastive"},
            "batch": {"global_size": 8},
            "data": {"decoder": {"num_threads": 1}, "cache": {"path": str(tmp_path / "cache")}},
        }
    )
    return SimpleNamespace(
        spec=spec,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        manifests={"train": manifest},
        model=SimpleNamespace(preprocess=Preprocess(image_size=32)),
    )


def logged(step, *, wait, rate=80.0):
    return events.Step(step=step, epoch=0, loss=1, lr=1, images_per_s=rate, data_wait_share=wait, eta_s=1)


def warnings_of(run, *steps):
    watch, written = DataWaitWatch(run), Written()
    for step in steps:
        watch.look(step, reporter=written)
    return [event.message for event in written if event.level == "warn"]


def test_waiting_is_warned_of_once_with_the_stages(run):
    (message,) = warnings_of(run, logged(1, wait=0.9), logged(20, wait=0.5), logged(40, wait=0.5))
    assert message.startswith("50% of the time of the last 19 steps was spent waiting for data")
    assert all(stage in message for stage in ("reading", "decoding", "resizing", "augmenting"))


@pytest.mark.parametrize(
    "steps",
    [
        [(1, 0.9), (20, 0.04), (40, 0.05)],  # the first step fills the pipeline
        [(1, 0.9), (5, 0.9)],  # too short to tell
        [(1, 0.9), (5, 0.09), (25, 0.0)],  # and joined to what comes next
    ],
)
def test_little_waiting_is_not_worth_a_word(run, steps):
    assert warnings_of(run, *(logged(step, wait=wait) for step, wait in steps)) == []


def test_other_ranks_say_nothing(run):
    run.rank = 1
    assert warnings_of(run, logged(1, wait=0.9), logged(20, wait=0.9)) == []


def test_data_that_cannot_be_read_any_more_do_not_end_the_run(run):
    for file in run.manifests["train"].files(range(8)):
        with open(file, "wb") as damaged:
            damaged.write(b"no image")
    (message,) = warnings_of(run, logged(1, wait=0.9), logged(20, wait=0.5))
    assert "could not be timed" in message


def test_a_file_that_is_gone_does_not_end_the_run(run):
    (tmp := Path(run.manifests["train"].files([3])[0])).unlink()
    (message,) = warnings_of(run, logged(1, wait=0.9), logged(20, wait=0.5))
    assert "could not be timed" in message
    assert tmp.name in message


def times(**milliseconds):
    seconds = dict.fromkeys(("reading", "decoding", "resizing", "augmenting"), 0.001)
    seconds |= {stage: number / 1000 for stage, number in milliseconds.items()}
    return StageTimes(
        seconds=seconds, num_images=9, num_threads=2, median_bytes=9, median_size=(2000, 1500), loader_bytes=0
    )


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        ("reading", "attune data stage"),
        ("decoding", "data.decoder.num_threads (2 now)"),
        ("resizing", "2000 x 1500 pixels"),
        ("augmenting", "data.augmentation"),
    ],
)
def test_the_advice_is_for_the_slowest_stage(run, stage, advice):
    text = diagnosis(times(**{stage: 50}), wanted=100, run=run)
    assert f"The slowest stage is {stage}" in text
    assert advice in text
    assert "hardware_load" not in text


def test_a_hardware_decoder_is_only_spoken_of_where_there_is_one(run):
    run.device = torch.device("cuda")
    assert "data.decoder.hardware_load (0.65 now)" in diagnosis(times(decoding=50), wanted=100, run=run)


def test_stages_that_are_fast_enough_leave_prefetching_and_cores(run):
    text = diagnosis(times(), wanted=100, run=run)
    assert "prefetch_batches" in text
    assert "slowest" not in text
