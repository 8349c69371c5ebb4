"""COCO's captions and Karpathy's splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dali_pipelines.sources import coco_captions, karpathy
from dali_pipelines.sources.samples import DataError

COCO = {
    "info": {"year": 2017},
    "images": [{"id": 9, "file_name": "000000000009.jpg"}, {"id": 3, "file_name": "000000000003.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "a cat \n"},
        {"id": 2, "image_id": 9, "caption": "a dog"},
        {"id": 3, "image_id": 3, "caption": "the cat"},
    ],
}


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("folder", ["annotations/train2017", "train2017", "images/train2017", "images", "annotations"])
def test_cocos_images_are_found(tmp_path, cache, folder):
    touched(tmp_path / folder, "000000000003.jpg", "000000000009.jpg")
    samples = coco_captions.read(written(tmp_path / "annotations/captions_train2017.json", COCO), cache=cache)
    assert samples.root == (tmp_path / folder).resolve()
    assert samples.paths == ["000000000009.jpg", "000000000003.jpg"]
    assert samples.captions == [["a dog"], ["a cat", "the cat"]]
    assert samples.labels is None


def test_coco_of_2014(tmp_path, cache):
    name = "COCO_val2014_000000000042.jpg"
    touched(tmp_path / "val2014", name)
    content = {"images": [{"id": 42, "file_name": name}], "annotations": [{"image_id": 42, "id": 1, "caption": "x"}]}
    path = written(tmp_path / "annotations/captions_val2014.json", content)
    assert coco_captions.read(path, cache=cache).paths == [name]


def test_cocos_mistakes_are_named(tmp_path, cache):
    def read(content, name="captions_val2017.json", **options):
        return coco_captions.read(written(tmp_path / name, content), cache=cache, **options)

    touched(tmp_path, "000000000003.jpg", "000000000009.jpg")
    with fails("path", "annotation 7", "image 5, which is not among"):
        read(COCO | {"annotations": [*COCO["annotations"], {"id": 7, "image_id": 5, "caption": "x"}]})
    with fails("path", "1 of the 2 images", "no caption: 000000000009.jpg"):
        read(COCO | {"annotations": COCO["annotations"][::2]})
    with fails("path", "lists image 9 twice"):
        read(COCO | {"images": COCO["images"] * 2})
    with fails("path", "annotation 2", "is empty"):
        read(COCO | {"annotations": [{"id": 2, "image_id": 9, "caption": " "}]})
    with fails("path", "annotation 2", "no usable 'caption'"):
        read(COCO | {"annotations": [{"id": 2, "image_id": 9}]})
    with fails("path", "a list of objects called 'annotations'", "info, images"):
        read({"info": {}, "images": []})
    with fails("path", "not valid JSON"):
        read("{")
    with fails("path", "does not exist"):
        coco_captions.read(tmp_path / "none.json", cache=cache)
    with fails("images_root", "does not exist"):
        read(COCO, images_root=tmp_path / "nowhere")
    with fails("path", "leads outside"):
        outside = [{"id": 9, "file_name": "../x.jpg"}, COCO["images"][1]]
        read(COCO | {"images": outside}, images_root=tmp_path)
    with fails("images_root", "000000000009.jpg", "is in none of", "name its folder with images_root"):
        read(COCO, name="elsewhere/deep/captions_val2017.json")


def test_real_coco(test_data, cache):
    samples = coco_captions.read(test_data / "coco_mini/captions_train2017.json", cache=cache)
    assert len(samples) == 80
    assert samples.root == (test_data / "coco_mini/train2017").resolve()
    assert all(captions for captions in samples.captions)


KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filename": "a.jpg", "filepath": "val2014", "split": split, "sentences": [{"raw": "A cat."}, {"raw": "cat "}]}
        | extra
        for split, extra in [
            ("test", {}),
            ("train", {"filename": "b.jpg", "filepath": "train2014"}),
            ("restval", {"filename": "c.jpg"}),
        ]
    ],
}


def test_karpathys_splits(tmp_path, cache):
    touched(tmp_path / "images", "val2014/a.jpg", "train2014/b.jpg", "val2014/c.jpg")
    path = written(tmp_path / "dataset_coco.json", KARPATHY)
    samples = karpathy.read(path, cache=cache)
    assert samples.paths == ["train2014/b.jpg", "val2014/c.jpg"]
    assert samples.captions == [["A cat.", "cat"]] * 2
    assert samples.root == (tmp_path / "images").resolve()
    assert karpathy.read(path, split=("test",), cache=cache).paths == ["val2014/a.jpg"]
    with fails("split", "split is val;", "are test, train, restval"):
        karpathy.read(path, split=("val",), cache=cache)


def test_flickr_has_no_folders_and_no_restval(tmp_path, cache):
    image = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}
    touched(tmp_path / "Flicker8k_Dataset", "1.jpg")
    path = written(tmp_path / "dataset_flickr8k.json", {"images": [image]})
    assert karpathy.read(path, cache=cache).paths == ["1.jpg"]
    with fails("path", "'1.jpg' has no caption"):
        karpathy.read(written(path, {"images": [image | {"sentences": []}]}), cache=cache)
    with fails("path", "no usable 'split'"):
        karpathy.read(written(path, {"images": [{"filename": "1.jpg"}]}), cache=cache)
    with fails("split", "restval", "are train"):
        karpathy.read(written(path, {"images": [image]}), split=("restval",), cache=cache)
