"""What the command line, a job's spec and the data make of an evaluation together."""

from __future__ import annotations

import json

import pytest

from trainer.errors import UnusableSpecError
from trainer.evaluate import parse_arguments
from trainer.evaluation.request import settle


def settled(*options: str):
    return settle(parse_arguments(["--model", "attune-tiny-32", *options]))


@pytest.fixture
def job(tmp_path):
    """A spec of which one data set has templates of its own."""
    spec = {
        "model": "attune-tiny-32",
        "data": {
            "templates": ["a photo of a {}."],
            "validation": "plain",
            "evaluate": {"sketches": {"path": "drawn", "templates": ["a sketch of a {}.", "plain"]}},
        },
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec))
    return str(path)


def test_a_data_set_has_templates_of_its_own(job):
    request = settled("--spec", job)
    assert request.templates_of("validation") == ("a photo of a {}.",)
    assert request.templates_of("sketches")[0] == "a sketch of a {}."
    assert len(request.templates_of("sketches")) > 1
    assert "plain" not in request.templates_of("sketches")
    with pytest.raises(UnusableSpecError, match="different templates"):
        request.common_templates()


def test_templates_of_the_command_line_come_before_those_of_a_job(job):
    request = settled("--spec", job, "--templates", "the {}")
    assert request.templates_of("sketches") == request.templates_of("validation") == ("the {}",)
    assert request.common_templates() == ("the {}",)


def test_templates_are_not_named_twice_on_the_command_line():
    own = "x={path: drawn, templates: 'a sketch of a {}.'}".replace("x={", "x={format: image_folder, ")
    assert settled("--data", own).common_templates() == ("a sketch of a {}.",)
    with pytest.raises(UnusableSpecError, match="--templates and --data x both name templates"):
        settled("--data", own, "--templates", "the {}")


def test_limits_and_names_reach_every_member_of_a_mixture(tmp_path):
    for name in ("a/cat", "a/dog", "b/cat"):
        (tmp_path / name).mkdir(parents=True)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"cat": "lion"}))
    mixture = f"both={{sources: [{tmp_path}/a, {tmp_path}/b]}}"
    request = settled("--data", mixture, "--class-names", str(names), "--limit-per-class", "3")
    parts = request.data["both"].sources
    assert [part.limit_per_class for part in parts] == [3, 3]
    assert [part.class_names for part in parts] == [{"cat": "lion"}] * 2
