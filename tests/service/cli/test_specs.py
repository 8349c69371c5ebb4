from __future__ import annotations

from pathlib import Path

import pytest

from service.cli.specs import partial_spec_for_service, spec_from_options
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
    partial = partial_spec_for_service(
        None,
        "contrastive",
        [
            "data.train={path: pairs.tsv, images_root: images}",
            "data.validation=/elsewhere/held-out.tsv",
            "data.evaluate.shifted=other",
            "model.name=local-dir:weights",
            "parallel.deepspeed_config=zero.json",
        ],
    )

    assert partial == {
        "recipe": "contrastive",
        "data": {
            "train": {"path": str(tmp_path / "pairs.tsv"), "images_root": str(tmp_path / "images")},
            "validation": "/elsewhere/held-out.tsv",
            "evaluate": {"shifted": str(tmp_path / "other")},
        },
        "model": {"name": f"local-dir:{tmp_path / 'weights'}"},
        "parallel": {"deepspeed_config": str(tmp_path / "zero.json")},
    }


def test_uploaded_files_and_urls_are_no_paths_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uploaded = f"file-{'0a' * 12}"
    partial = partial_spec_for_service(
        None,
        None,
        [
            f"data.train={uploaded}",
            "data.validation=s3://bucket/held-out.csv",
            f"data.evaluate.mixed=[{uploaded}, {{path: here, class_names: classes.txt}}, 'zip::https://example.org/x.zip']",
            "data.evaluate.named={path: there, class_names: imagenet}",
            "metadata.path=notes",
        ],
    )

    assert partial["data"] == {
        "train": uploaded,
        "validation": "s3://bucket/held-out.csv",
        "evaluate": {
            "mixed": [
                uploaded,
                {"path": str(tmp_path / "here"), "class_names": str(tmp_path / "classes.txt")},
                "zip::https://example.org/x.zip",
            ],
            "named": {"path": str(tmp_path / "there"), "class_names": "imagenet"},
        },
    }
    assert partial["metadata"] == {"path": "notes"}


@pytest.mark.parametrize("name", ["hf-hub:org/name", "ft:attune-tiny-32:two:1234", "ViT-B-32/openai"])
def test_other_model_names_are_the_services_business(tmp_path: Path, name: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"model: '{name}'\ndata: 5\n")

    assert partial_spec_for_service(path, None, None) == {"model": name, "data": 5}
