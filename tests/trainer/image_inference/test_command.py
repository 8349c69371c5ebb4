"""Requests as `attune classify` and `attune features` send them."""

import json

import numpy as np
import pytest
from PIL import Image

from trainer.image_inference.annotation import WIDTH, annotated
from trainer.image_inference.command import main


def request(**fields):
    return [json.dumps({key: str(value) if key == "output" else value for key, value in fields.items()})]


def test_answers_and_annotated_pictures(clip_export, pictures, tmp_path):
    folder = pictures[0].parent
    shown = tmp_path / "shown"
    code = main(
        request(
            command="classify", model=str(clip_export), images=[str(folder)], output=tmp_path / "answers.json",
            top_k=2, batch_size=2, show_dir=str(shown),
        )
    )  # fmt: skip
    assert code == 0
    answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
    assert [answer["image"] for answer in answers] == sorted(map(str, pictures))
    for answer in answers:
        first, second = answer["top"]
        assert first["pred_score"] >= second["pred_score"]
        assert (answer["pred_class"], answer["pred_score"]) == (first["pred_class"], first["pred_score"])
    assert sorted(path.name for path in shown.iterdir()) == [
        "four.png", "one-2.png", "one.png", "three.png", "two.png",
    ]  # fmt: skip
    assert Image.open(shown / "two.png").width == WIDTH


def test_bars_are_as_long_as_probabilities():
    sheet = np.asarray(annotated(Image.new("RGB", (10, 10), "black"), [("", 0.75), ("", 0.25)]))
    lines = sheet[WIDTH + 8 :, 8:-8]
    bar = (lines[:, :, 2].astype(int) - lines[:, :, 0]) > 50  # blue, not grey
    assert bar[2].mean() == pytest.approx(0.75, abs=0.02)
    assert bar[2 + 26].mean() == pytest.approx(0.25, abs=0.02)


def test_features_lie_beside_their_paths(clip_export, pictures, tmp_path):
    output = tmp_path / "new" / "features.npz"
    given = [str(path) for path in pictures]
    code = main(request(command="features", model=str(clip_export), images=given, stage="pre_logits", output=output))
    assert code == 0
    written = np.load(output)
    assert written["features"].shape == (5, 64)
    assert written["images"].tolist() == given


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"images": ["no-such.png"]}, "there is no image file 'no-such.png'"),
        ({"model": "ViT-B/33"}, "Did you mean ViT-B/32"),
        ({"output": "features.csv"}, "features go into an .npz file"),
        ({"image_size": 50, "model": "timm/resnet18"}, "image_size: timm/resnet18 keeps its own"),
    ],
)
def test_what_is_wrong_is_said(clip_export, pictures, capsys, fields, says):
    given = {"model": str(clip_export), "images": [str(pictures[0])], "output": "features.npz", **fields}
    assert main(request(command="features", **given)) == 2
    assert says in capsys.readouterr().err


def test_a_folder_without_images_is_named(clip_export, tmp_path, capsys):
    code = main(request(command="classify", model=str(clip_export), images=[str(tmp_path)], output="answers.json"))
    assert code == 2
    assert f"folder {str(tmp_path)!r} holds no images" in capsys.readouterr().err
