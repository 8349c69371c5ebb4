"""The table's numbers against `evaluate_dataset` and by hand; the demo's feature files."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.evaluation.datasets import evaluate_dataset
from trainer.models import load_clip
from trainer.spec import ImageFolderSource, ModelSpec
from trainer.transfer.command import main
from trainer.transfer.measure import read_domain
from trainer.transfer.table import transfer_table

CPU = torch.device("cpu")


def run(digits, output, models, **fields):
    """One request over the two halves of the digits as domains."""
    names = [f"local-dir:{folder}" for folder in models]
    return main([json.dumps({"root": str(digits), "output": str(output), "models": names, **fields})])


def test_zero_shot_is_what_evaluate_measures(digits, exports, tmp_path):
    assert run(digits, tmp_path, exports) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    rows = document["tables"]["results"]
    assert [row["backbone"] for row in rows] == ["model-0", "model-1"]
    for row, folder in zip(rows, exports, strict=True):
        clip = load_clip(ModelSpec(name=f"local-dir:{folder}"))
        for domain in ("heldout", "train"):
            manifest = read_domain(domain, ImageFolderSource(path=str(digits / domain)))
            (result,) = evaluate_dataset(clip, manifest, dataset=domain, templates=["a picture of a {}"], device=CPU)
            assert row[domain] == result.metrics["top1"]
        assert row["mean"] == pytest.approx((row["heldout"] + row["train"]) / 2)
    with (tmp_path / "results.csv").open() as file:
        assert [float(row["mean"]) for row in csv.DictReader(file)] == [row["mean"] for row in rows]
    assert "| backbone | heldout % | train % | mean % |" in (tmp_path / "results.md").read_text()
    assert Image.open(tmp_path / "results.png").width > 200
    assert document["templates"] == ["a picture of a {}"]


def test_the_mean_is_that_of_the_columns_and_not_of_what_is_shown():
    table = transfer_table({"RN50": {"amazon": 0.72494, "webcam": 0.65664, "dslr": 0.74304}}, title="Office-31")
    assert table.rows == (("RN50", 0.72494, 0.65664, 0.74304, pytest.approx(0.70820667)),)  # .6908 in the demo
    assert table.shown() == (("RN50", "72.49", "65.66", "74.30", "70.82"),)
    with pytest.raises(ValueError, match="b has the domains y, the first model x"):
        transfer_table({"a": {"x": 1.0}, "b": {"y": 1.0}}, title="")


def test_features_are_the_demos_files(digits, exports, tmp_path):
    assert run(digits, tmp_path, exports[:1], mode="features", domains=["heldout"], batch_size=7) == 0
    (path,) = (tmp_path / "feat").iterdir()
    assert path.name == "fe_model-0_heldout.csv"
    first = path.read_text().splitlines()[0].split(" ")
    assert len(first) == 64 + 1
    assert all(len(number.partition(".")[2]) == 4 for number in first)
    read = np.loadtxt(path)
    assert read[:, -1].tolist() == [label for label in range(10) for _ in range(8)]

    clip = load_clip(ModelSpec(name=f"local-dir:{exports[0]}"))
    clip.module.eval()
    manifest = read_domain("heldout", ImageFolderSource(path=str(digits / "heldout")))
    (image,) = (Image.open(file) for file in manifest.files([0]))
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.float32(v)[:, None, None] for v in (clip.preprocess.mean, clip.preprocess.std))
    with torch.no_grad():
        expected = clip.module.encode_image(torch.from_numpy((pixels - mean) / std)[None])[0].numpy()
    np.testing.assert_allclose(read[0, :-1], expected, atol=0.02)
    assert abs(np.linalg.norm(expected) - 1) > 0.1


def test_a_model_that_cannot_be_loaded_is_named_before_anything_is_measured(digits, exports, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in exports[0].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "open_clip_model.safetensors").write_bytes(b"torn")
    for mode in ("zero-shot", "features", "fine-tune"):
        fields = {"step": "prepare"} if mode == "fine-tune" else {}
        assert run(digits, tmp_path / "out", [exports[0], broken], mode=mode, **fields) == 2
        told = capsys.readouterr()
        assert "error: model broken: " in told.err
        assert not told.out
        assert not list((tmp_path / "out").glob("**/*"))


def test_a_tower_without_texts_is_referred_to_its_features(digits, tmp_path, capsys):
    request = {"root": str(digits), "output": str(tmp_path), "models": ["timm/resnet18"]}
    assert main([json.dumps(request)]) == 2
    assert "model timm/resnet18: it has no text tower; compare its features with --mode features" in (
        capsys.readouterr().err
    )
