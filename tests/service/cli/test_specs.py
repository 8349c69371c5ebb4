from __future__ import annotations

from pathlib import Path

import pytest

from service.cli.specs import spec_from_options, with_absolute_paths
from trainer.resolve import SpecError


def test_override_beats_file_beats_recipe(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("data: {train: photos}\nbatch: {global_size: 64}\noptim: {lr: 2.0e-5}\n")

    spec = spec_from_options(path, "flyp", ["optim.lr=3e-5"])

    assert (spec.optim.lr, spec.batch.global_size, spec.objective.name) == (3e-5, 64, "class_prompts")


def test_missing_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*nowhere\.yaml"):
        spec_from_options(tmp_path / "nowhere.yaml", None, None)


def test_relative_paths_become_absolute_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_from_options(
        None,
        "contrastive",
        [
            "data.train={path: pairs.tsv, images_root: images}",
            "data.validation=/elsewhere/held-out.tsv",
            "data.evaluate.shifted=other",
            "model.name=local-dir:weights",
        ],
    )

    fields = with_absolute_paths(spec)

    assert fields["data"]["train"]["path"] == str(tmp_path / "pairs.tsv")
    assert fields["data"]["train"]["images_root"] == str(tmp_path / "images")
    assert fields["data"]["validation"]["path"] == "/elsewhere/held-out.tsv"
    assert fields["data"]["evaluate"]["shifted"]["path"] == str(tmp_path / "other")
    assert fields["model"]["name"] == f"local-dir:{tmp_path / 'weights'}"


def test_other_model_names_stay_as_they_are() -> None:
    spec = spec_from_options(None, "flyp", ["data.train=/photos", "model.name=hf-hub:org/name"])

    assert with_absolute_paths(spec)["model"]["name"] == "hf-hub:org/name"
