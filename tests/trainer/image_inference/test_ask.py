"""Classifying and extracting, against the models called by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.export import export_classifier
from trainer.image_inference.ask import extract_features, inference_model
from trainer.image_inference.models import get_model, list_models
from trainer.model_card import ModelCard
from trainer.models import clip_classifier, load_clip
from trainer.spec import ModelSpec
from trainer.stored_classifiers import read_classifier

CPU = torch.device("cpu")


def test_an_export_chooses_among_the_classes_of_its_training(clip_export, pictures):
    model = get_model(clip_export, device="cpu")
    answers = inference_model(model, pictures)
    clip = load_clip(ModelSpec(name=f"local-dir:{clip_export}"))
    weights_dc = zero_shot_weights(
        clip.module, clip.tokenize, ("cat", "dog", "bird"), ["a drawing of a {}."], device=CPU
    )
    with torch.no_grad():
        features = clip.module.encode_image(model.pixels.batch(pictures), normalize=True)
        expected = (clip.module.logit_scale.exp() * features @ weights_dc).softmax(dim=-1).numpy()
    np.testing.assert_allclose([a["pred_scores"] for a in answers], expected, rtol=1e-4)
    for answer, scores in zip(answers, expected, strict=True):
        assert answer["pred_label"] == scores.argmax()
        assert answer["pred_score"] == pytest.approx(scores.max(), rel=1e-4)
        assert answer["pred_class"] == ("cat", "dog", "bird")[scores.argmax()]


def test_a_classifier_answers_by_its_head(classifier_export, pictures):
    model = get_model(f"local-dir:{classifier_export}", device="cpu")
    answers = inference_model(model, pictures)
    plain = read_classifier(classifier_export).module.eval()
    with torch.no_grad():
        logits = plain(model.pixels.batch(pictures))
    np.testing.assert_allclose([a["pred_scores"] for a in answers], logits.softmax(dim=-1).numpy(), rtol=1e-4)
    (before_head,) = extract_features(model, pictures[0], stage="pre_logits")
    torch.testing.assert_close(plain.head(before_head), logits[0], rtol=1e-4, atol=1e-5)


def test_what_timm_cannot_represent_has_stages_too(tmp_path, pictures):
    clip = load_clip(ModelSpec(name="attune-tiny-32"))
    wise_ft = clip_classifier(clip, class_names=("cat", "dog"), features="projected")
    export_classifier(wise_ft, tmp_path / "export", card=ModelCard(spec=None, metrics={}, class_names=("cat", "dog")))
    model = get_model(tmp_path / "export", device="cpu")
    (seen,) = extract_features(model, pictures[0], stage="pre_logits")
    (pooled,) = extract_features(model, pictures[0], stage="backbone")
    assert (seen.shape, pooled.shape) == ((64,), (96,))
    assert seen.norm() == pytest.approx(1, abs=1e-5)
    assert inference_model(model, pictures[0])["pred_class"] in ("cat", "dog")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_and_holders_make_no_difference(clip_export, pictures, batch_size):
    model = get_model(clip_export, device="cpu")
    whole = inference_model(model, pictures, batch_size=32)
    parts = inference_model(model, [str(path) for path in pictures], batch_size=batch_size)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one["pred_scores"], other["pred_scores"], rtol=1e-4)
    single = inference_model(model, Image.open(pictures[0]))
    assert single["pred_class"] == whole[0]["pred_class"]
    features = extract_features(model, pictures, batch_size=batch_size)
    assert [tuple(f.shape for f in one) for one in features] == [((96,),)] * 5
    torch.testing.assert_close(extract_features(model, pictures[3])[0], features[3][0], rtol=1e-4, atol=1e-5)


def test_a_timm_classifier_knows_imagenets_classes(pictures):
    model = get_model("timm/mobilenetv3_small_050.lamb_in1k", pretrained=False, device="cpu")
    answer = inference_model(model, pictures[0])
    assert answer["pred_scores"].shape == (1000,)
    assert model.class_names[0] == "tench, Tinca tinca"
    assert answer["pred_class"] == model.class_names[answer["pred_label"]]


def test_what_has_no_classes_says_so(clip_export, pictures):
    with pytest.raises(UnusableSpecError, match="is an image-text model: name the classes"):
        inference_model(get_model("attune-tiny-32", device="cpu"), pictures[0])
    tower = get_model("timm/vit_base_patch32_clip_224.openai", pretrained=False, device="cpu")
    with pytest.raises(UnusableSpecError, match="has no classes; use an image-text model, or weights"):
        tower.logits(torch.zeros(1, 3, 224, 224))


def test_arguments_that_are_not_for_a_model_are_refused(classifier_export, clip_export, pictures):
    with pytest.raises(UnusableSpecError, match="class_names and templates: .* has classes of its own"):
        get_model(classifier_export, class_names=["a", "b"], templates=["a {}"])
    with pytest.raises(UnusableSpecError, match="Did you mean vit-base-p32_clip-openai-pre_3rdparty_in1k"):
        get_model("vit-base-p32_clip-openai-pre_3rdparty_in")
    with pytest.raises(UnusableSpecError, match="pretrained=False: .* is a trained model"):
        get_model(clip_export, pretrained=False)
    with pytest.raises(UnusableSpecError, match="batch_size is 0"):
        inference_model(get_model(clip_export, device="cpu"), pictures, batch_size=0)
    with pytest.raises(UnusableDataError, match="no-such.png' cannot be read"):
        extract_features(get_model(clip_export, device="cpu"), [pictures[0], "no-such.png"])


@pytest.mark.slow
def test_fresh_weights_come_without_a_download(pictures):
    model = get_model("ViT-B/32", pretrained=False, device="cpu", class_names=["cat", "dog"])
    assert model.name == "ViT-B-32"
    assert inference_model(model, pictures[0])["pred_scores"].shape == (2,)


def test_models_are_listed_as_mmpretrain_lists_them():
    vit_p32 = list_models("vit-base-p32")
    assert len(vit_p32) == 6
    assert set(vit_p32) == set(list_models("vit-base-p32_clip*", task="Image Classification"))
    assert list_models("vit-base-p32", exclude_patterns=["*384px", "*448px"]) == [
        "vit-base-p32_clip-laion2b-in12k-pre_3rdparty_in1k",
        "vit-base-p32_clip-laion2b-pre_3rdparty_in1k",
        "vit-base-p32_clip-openai-pre_3rdparty_in1k",
    ]
    assert list_models("vit-large-p14", task="null") == ["vit-large-p14_clip-openai-pre_3rdparty"]
    zero_shot = list_models(task="Zero-Shot Classification")
    assert {"clip_vit-base-p16_zeroshot-cls_in1k", "ViT-L/14@336px", "openai/RN50", "ViT-B-32/openai"} <= set(zero_shot)
    assert "RN50" not in zero_shot
    assert "timm/resnet50_clip.openai" in list_models("timm/resnet50_clip", task="null")
    assert "timm/resnet18.a1_in1k" in list_models("timm/resnet18", task="Image Classification")
    assert list_models("nothing-is-called-so") == []
    with pytest.raises(UnusableSpecError, match="task is 'Captioning'; allowed: Image Classification, Zero-Shot"):
        list_models(task="Captioning")
