"""What is found in the data before a job takes a device."""

import numpy as np
import pytest

from dali_pipelines.manifest import Manifest
from trainer import preflight
from trainer.job_dir import JobDir
from trainer.spec import JobSpec


@pytest.fixture
def checked(digits, tmp_path):
    """Run preflight on the digits with more fields of a spec."""

    def run(data=None, **sections):
        spec = JobSpec.model_validate(
            {
                "model": "attune-tiny-32",
                "objective": {"name": "class_prompts"},
                "data": {"train": str(digits / "train"), **(data or {})},
                "batch": {"global_size": 20},
                **sections,
            }
        )
        job = JobDir(tmp_path / "job")
        report = preflight.run(spec, job=job)
        return report, Manifest.load(job.manifest("train"))

    return run


def test_shots_leave_that_many_images_of_each_class_by_the_seed(checked):
    report, first = checked({"shots": 4})
    assert report.ok
    assert np.bincount(first.labels).tolist() == [4] * 10
    assert report.datasets["train"]["hash"] == first.hash
    _, again = checked({"shots": 4})
    _, other = checked({"shots": 4}, seed=1)
    assert again.paths == first.paths != other.paths


def test_a_class_smaller_than_the_shots_is_named_with_its_count(checked):
    report, _ = checked({"shots": 25})
    assert not report.ok
    (problem,) = report.problems
    assert problem.field == "data.shots"
    assert "25 samples of each class are wanted, but 'eight' has 24" in problem.message


def test_a_batch_must_be_filled_by_what_an_epoch_holds(checked):
    report, _ = checked({"shots": 1})
    assert "batch.global_size 20 is more than the 10 training samples" in report.problems[0].message
    report, _ = checked({"episode_size": 400}, batch={"global_size": 300})
    assert report.ok
