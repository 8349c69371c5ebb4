"""What is found in the data before a job takes a device."""

import shutil

import numpy as np
import pytest

from dali_pipelines.manifest import Manifest
from trainer import preflight
from trainer.job_dir import DataProblem, JobDir
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
        return report, Manifest.load(job.manifest("train")) if job.manifest("train").exists() else None

    return run


@pytest.mark.parametrize(("max_bad_share", "ok"), [(0.1, False), (0.2, True)])
def test_data_of_which_too_many_are_bad_are_refused(checked, digits, tmp_path, max_bad_share, ok):
    shutil.copytree(digits / "train", tmp_path / "images")
    files = sorted((tmp_path / "images").glob("*/*.jpg"))
    for file in files[: len(files) // 8]:
        file.write_bytes(b"no image")
    data = {"train": str(tmp_path / "images"), "on_bad_sample": "skip", "max_bad_share": max_bad_share}
    report, _ = checked(data)
    assert report.ok == ok
    assert report.datasets["train"]["bad"]
    if not ok:
        assert report.problems[0].field == "data.train.path"
        assert "data.max_bad_share allows 0.1: " in report.problems[0].message


def test_a_problem_names_its_field_once():
    shots = DataProblem(field="data.shots", message="data.shots 4: too few")
    assert str(shots) == "data.shots 4: too few"
    path = DataProblem(field="data.evaluate.x.path", message="folder 'x' does not exist")
    assert str(path) == "data.evaluate.x.path: folder 'x' does not exist"


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


def test_a_mixture_unites_classes_and_names_the_member_at_fault(checked, digits, tmp_path):
    two = {"path": str(digits / "heldout"), "classes": ["nine", "one"], "class_names": {"nine": "none"}}
    report, train = checked({"train": [str(digits / "train"), two], "validation": two})
    assert report.ok
    assert train.class_names[-1] == "none"
    assert train.sources.tolist() == [0] * 240 + [1] * 16
    assert report.datasets["train"]["class_counts"]["one"] == 32
    report, _ = checked({"train": [str(digits / "train"), {"path": str(tmp_path / "nowhere")}]})
    assert report.problems[0].field == "data.train.sources.1.path"


def test_shots_of_a_mixture_count_over_its_members(checked, digits):
    parts = [{"path": str(digits / part), "limit_per_class": 3} for part in ("train", "heldout")]
    report, train = checked({"train": parts, "shots": 6})
    assert report.ok
    assert np.bincount(train.labels).tolist() == [6] * 10


def test_a_mixture_of_one_class_is_refused(checked, digits):
    parts = [{"path": str(digits / part), "classes": ["one"]} for part in ("train", "heldout")]
    report, _ = checked({"train": parts}, batch={"global_size": 4})
    (problem,) = [problem for problem in report.problems if problem.fatal]
    assert (problem.field, "only one class with images, 'one'" in problem.message) == ("data.train.sources", True)


def test_classes_that_training_lacks_are_named_for_a_mixture(checked, digits):
    parts = [{"path": str(digits / "heldout"), "class_names": {"nine": "none"}}]
    report, _ = checked({"validation": parts})
    fields = [problem.field for problem in report.problems if problem.fatal]
    assert fields == ["data.validation.sources"]


def test_shares_have_something_to_draw_from_and_an_epoch_fills_a_batch(checked, digits, tmp_path):
    (tmp_path / "one.csv").write_text(f"image,caption\n{digits}/train/zero/00.jpg,a zero\n")
    unlabelled = {"format": "csv", "path": str(tmp_path / "one.csv"), "images_root": str(digits)}
    both = {"train": [str(digits / "train"), unlabelled], "class_balanced": True}
    distilled = {"objective": {"name": "distillation", "teacher": "attune-tiny-32", "towers": "image"}}
    report, train = checked(both, **distilled, batch={"global_size": 240})
    assert report.ok, report.problems
    assert len(train) == 241
    report, _ = checked(both, **distilled, batch={"global_size": 241})
    assert "batch.global_size 241 is more than the 240 training samples" in report.problems[0].message
