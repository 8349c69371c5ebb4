"""Classifiers that timm cannot represent, and jobs that go on from a trained classifier."""

import json
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812

from service.inference.predictor import ClassifierTower
from trainer.catalogue import check_model_name, is_timm_model
from trainer.errors import UnusableSpecError
from trainer.export import export_classifier
from trainer.model_card import ModelCard
from trainer.model_setup import build_model, build_structure
from trainer.models import clip_classifier, load_clip, load_timm_classifier, read_export
from trainer.spec import JobSpec, ModelSpec
from trainer.stored_classifiers import read_classifier

CARD = ModelCard(spec=None, metrics={}, class_names=("cat", "dog", "fox"))
CLASSES = CARD.class_names


def disturbed(classifier):
    """With a value of its own everywhere, so that what is forgotten shows."""
    with torch.no_grad():
        for parameter in classifier.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return classifier


def classifier_on(features, name="attune-tiny-32"):
    torch.manual_seed(0)
    return disturbed(clip_classifier(load_clip(ModelSpec(name=name)), class_names=CLASSES, features=features))


def exported(classifier, folder):
    export_classifier(classifier, folder, card=CARD)
    return folder


def logits(module, images):
    with torch.no_grad():
        return module.eval()(images)


def test_mean_patches_are_a_model_of_timm(digit_images, tmp_path):
    classifier = classifier_on("mean_patches")
    folder = exported(classifier, tmp_path / "export")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    torch.testing.assert_close(
        logits(loaded, digit_images), logits(classifier.module, digit_images), rtol=1e-4, atol=1e-4
    )
    assert read_classifier(folder).features == "mean_patches"


def test_unit_norm_features_need_attunes_own_layout(digit_images, tmp_path):
    classifier = classifier_on("projected")
    expected = logits(classifier.module, digit_images)
    with torch.no_grad():
        embedded = F.normalize(classifier.module.trunk(digit_images), dim=-1)
        torch.testing.assert_close(expected, classifier.module.head(embedded))
    folder = exported(classifier, tmp_path / "export")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "attune.json",
        "config.json",
        "head.safetensors",
        "image_tower.safetensors",
    ]
    again = read_classifier(folder)
    assert torch.equal(logits(again.module, digit_images), expected)
    assert (again.class_names, again.preprocess, again.features) == (CLASSES, classifier.preprocess, "projected")
    served = ClassifierTower(folder, read_export(folder), torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(served.forward(digit_images), expected)
    assert "read_classifier" in (folder / "README.md").read_text()
    assert check_model_name(f"local-dir:{folder}") is None
    assert is_timm_model(f"local-dir:{folder}")  # an image model, without a text tower


@pytest.mark.parametrize("name", ["timm/deit_tiny_distilled_patch16_224"])
def test_a_timm_model_with_two_heads_is_kept_in_the_own_layout(name, tmp_path):
    torch.manual_seed(0)
    classifier = disturbed(load_timm_classifier(ModelSpec(name=name), class_names=CLASSES))
    images = torch.randn(2, 3, 224, 224)
    folder = exported(classifier, tmp_path / "export")
    assert json.loads((folder / "config.json").read_text())["layout"] == "attune"
    assert torch.equal(logits(read_classifier(folder).module, images), logits(classifier.module, images))


def job(folder, *, features="pooled", head="keep", **rest):
    objective = {"name": "classification", "features": features, "head": head, **rest}
    return JobSpec.model_validate({"model": f"local-dir:{folder}", "objective": objective})


@pytest.mark.parametrize("features", ["pooled", "mean_patches", "projected"])
def test_a_second_job_keeps_tower_and_head_whatever_the_order_of_classes(
    features, digit_images, digits_manifest, tmp_path
):
    classifier = classifier_on(features)
    folder = exported(classifier, tmp_path / "export")
    order = ("fox", "cat", "dog")
    model = build_model(job(folder, features=features), train=replace(digits_manifest, class_names=order))
    assert (model.class_names, model.features) == (order, features)
    expected = logits(classifier.module, digit_images)[:, [CLASSES.index(name) for name in order]]
    torch.testing.assert_close(logits(model.module, digit_images), expected, rtol=1e-4, atol=1e-4)
    planned = build_structure(job(folder, features=features), num_classes=3).module
    assert {n: p.shape for n, p in planned.named_parameters()} == {
        n: p.shape for n, p in model.module.named_parameters()
    }


@pytest.mark.parametrize("features", ["pooled", "projected"])
def test_a_second_job_may_have_other_classes_with_a_new_head(features, digits_manifest, tmp_path):
    classifier = classifier_on(features)
    folder = exported(classifier, tmp_path / "export")
    model = build_model(job(folder, features=features, head="fresh"), train=digits_manifest)
    assert model.module.head.out_features == 10
    assert model.module.head.weight.abs().max() < 1e-4
    assert build_structure(job(folder, features=features, head="fresh"), num_classes=10)


def test_a_trained_norm_stays_with_a_new_head(digits_manifest, tmp_path):
    classifier = classifier_on("mean_patches")
    folder = exported(classifier, tmp_path / "export")
    model = build_model(job(folder, features="mean_patches", head="fresh"), train=digits_manifest)
    torch.testing.assert_close(model.module.trunk.norm.weight, classifier.module.trunk.ln_post.weight)


def test_other_classes_or_features_are_named(digits_manifest, tmp_path):
    folder = exported(classifier_on("mean_patches"), tmp_path / "export")
    with pytest.raises(UnusableSpecError, match=r"objective\.features 'pooled': .* trained on 'mean_patches' features"):
        build_structure(job(folder), num_classes=3)
    strangers = replace(digits_manifest, class_names=("cat", "dog", "owl"))
    with pytest.raises(UnusableSpecError, match="the head lacks owl; the data lack fox"):
        build_model(job(folder, features="mean_patches"), train=strangers)
    with pytest.raises(UnusableSpecError, match="has 3 classes and the training data 5"):
        build_structure(job(folder, features="mean_patches"), num_classes=5)


def test_a_damaged_export_says_what_it_lacks(tmp_path):
    folder = exported(classifier_on("projected"), tmp_path / "export")
    (folder / "head.safetensors").unlink()
    with pytest.raises(UnusableSpecError, match="holds no whole classifier: .*head.safetensors"):
        read_classifier(folder)
