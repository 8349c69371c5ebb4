from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Attune = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_classify_answers_for_programs_and_draws_for_people(
    attune: Attune, two_class_folder: Path, tmp_path: Path
) -> None:
    names = ("--class-names", "dark, bright", "--class-names", "grey")
    ended = attune(
        "classify", "attune-tiny-32", two_class_folder / "dark", *names, "--top-k", "2", "--json", "--show-dir", "shown"
    )

    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    assert len(answers) == 8
    assert {len(answer["top"]) for answer in answers} == {2}
    assert {one["pred_class"] for answer in answers for one in answer["top"]} <= {"dark", "bright", "grey"}
    assert len(list((tmp_path / "shown").glob("*.png"))) == 8


def test_an_unknown_stage_exits_2_before_anything_is_loaded(attune: Attune) -> None:
    ended = attune("features", "attune-tiny-32", "image.png", "--stage", "head", "--output", "features.npz")

    assert ended.returncode == 2
    assert "--stage is 'head'; allowed: backbone, neck, pre_logits" in ended.stderr
