"""A job's preflight tells of held-out images that are trained on."""

import pytest

from trainer import preflight
from trainer.job_dir import JobDir
from trainer.spec import JobSpec


@pytest.fixture
def checked(damaged_photos, tmp_path):
    """Run preflight on the damaged photos with more fields of `data`."""

    def run(**data):
        spec = {
            "model": "attune-tiny-32",
            "objective": {"name": "class_prompts"},
            "data": {
                "train": str(damaged_photos / "train"),
                "validation": str(damaged_photos / "validation"),
                "on_bad_sample": "skip",
                "max_bad_share": 0.5,
                **data,
            },
            "batch": {"global_size": 4},
        }
        return preflight.run(JobSpec.model_validate(spec), job=JobDir(tmp_path / "job"))

    return run


def messages(report, field):
    return [problem.message for problem in report.problems if problem.field == field]


def test_held_out_images_that_are_trained_on_are_named_and_not_fatal(checked, tmp_path):
    report = checked()
    assert report.ok
    assert messages(report, "data.validation")[0].startswith("2 images of data.validation are also in data.train: ")
    assert "flower/comment.jpg" in messages(report, "data.validation")[0]
    assert any(
        "there more than once" in message and "mistaken.jpg" in message for message in messages(report, "data.train")
    )
    assert any("under several classes" in message for message in messages(report, "data.train"))
    assert any("flower/11.jpg (damaged" in message for message in messages(report, "data.train"))
    assert (tmp_path / "job/preflight/journal/train/0/000000.arrow").is_file()


def test_what_is_not_trained_on_does_not_count(checked):
    report = checked(shots=1)
    leaked = [m for m in messages(report, "data.validation") if "also in" in m]
    assert not any("2 images" in message for message in leaked)


def test_an_image_that_stands_in_for_a_bad_one_is_no_copy(checked):
    report = checked(on_bad_sample="replace")
    assert report.ok
    assert any("others stand in for them" in message for message in messages(report, "data.train"))
    copies = [message for message in messages(report, "data.train") if "there more than once" in message]
    assert [message.split(":")[0] for message in copies] == ["1 image of data.train is there more than once"]
