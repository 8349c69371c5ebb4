"""Projection heads and learned prompts: exported beside open_clip's weights, and put back."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from service.inference.predictor import ClipTowers
from trainer.errors import UnusableSpecError
from trainer.export import export_clip
from trainer.heads import ProjectionHead
from trainer.model_card import ModelCard
from trainer.model_setup import build_model, build_structure
from trainer.models import load_clip, read_export
from trainer.spec import JobSpec, ModelSpec

CARD = ModelCard(spec=None, metrics={})
TEXTS = ["a dog", "a photo of a cat"]
EXTENDED = {
    "name": "attune-tiny-32",
    "image": {"lock": True, "head": {"layers": 2, "hidden_size": 40, "output_size": 24}},
    "text": {"head": {"output_size": 24}, "prompt": {"length": 3}},
}


def build(manifest, model, **rest):
    torch.manual_seed(0)
    return build_model(JobSpec.model_validate({"model": model, **rest}), train=manifest)


@pytest.fixture
def extended(digits_manifest):
    model = build(digits_manifest, EXTENDED)
    with torch.no_grad():  # as if it had been trained
        for name in ("image_head.0.weight", "text_head.0.bias", "text_prompt.vectors"):
            model.module.get_parameter(name).normal_()
    return model


def features(model, images):
    module = model.module.eval()
    with torch.no_grad():
        return module.encode_image(images), module.encode_text(model.tokenize(TEXTS))


def test_a_head_is_what_dino_has_before_its_last_layer():
    head = ProjectionHead(16, layers=3, hidden_size=8, output_size=4)
    x = torch.randn(5, 16)
    expected = head[4](F.gelu(head[2](F.gelu(head[0](x)))))
    torch.testing.assert_close(head(x), expected / expected.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(head(x).norm(dim=-1), torch.ones(5))
    assert head[0].weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not head[0].bias.any()


def test_the_model_gives_head_features_and_a_scale_of_shape_one(extended, digit_images):
    module = extended.module
    image_features, text_features, logit_scale = module(digit_images[:2], extended.tokenize(TEXTS))
    assert image_features.shape == text_features.shape == (2, 24)
    assert logit_scale.shape == (1,)
    plain = open_clip.CLIP.encode_image(module, digit_images[:2])
    torch.testing.assert_close(image_features, module.image_head(plain))


def test_an_export_keeps_base_and_additions_apart_and_comes_back_whole(extended, digit_images, tmp_path):
    export_clip(extended, tmp_path / "export", card=CARD)
    expected = features(extended, digit_images)
    again = load_clip(ModelSpec(name=f"local-dir:{tmp_path / 'export'}"))
    assert all(torch.equal(a, b) for a, b in zip(features(again, digit_images), expected, strict=True))
    export_clip(again, tmp_path / "second", card=CARD)
    for name in ("attune_extras.safetensors", "open_clip_model.safetensors"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "export" / name).read_bytes()

    base = open_clip.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    with torch.no_grad():
        assert torch.equal(base.encode_image(digit_images), open_clip.CLIP.encode_image(extended.module, digit_images))


def test_the_service_gives_the_features_of_the_additions(extended, digit_images, tmp_path):
    export_clip(extended, tmp_path / "export", card=CARD)
    served = ClipTowers(tmp_path / "export", read_export(tmp_path / "export"), torch.device("cpu"))
    expected, _ = features(extended, digit_images)
    with torch.no_grad():
        torch.testing.assert_close(served.forward(digit_images), F.normalize(expected, dim=-1))


def test_a_job_goes_on_with_the_additions_of_an_export(extended, digits_manifest, tmp_path):
    export_clip(extended, tmp_path / "export", card=CARD)
    again = {**EXTENDED, "name": f"local-dir:{tmp_path / 'export'}"}
    model = build(digits_manifest, again)
    assert torch.equal(model.module.text_prompt.vectors, extended.module.text_prompt.vectors)
    planned = build_structure(JobSpec.model_validate({"model": again}), num_classes=None)
    shapes = {n: (p.shape, p.requires_grad) for n, p in planned.module.named_parameters()}
    assert shapes == {n: (p.shape, p.requires_grad) for n, p in model.module.named_parameters()}

    other = {**again, "text": {"head": {"output_size": 24}, "prompt": {"length": 4}}}
    with pytest.raises(UnusableSpecError, match="already has a learned prompt of 3 vectors"):
        build(digits_manifest, other)
    other = {**again, "image": {"head": {"layers": 1, "output_size": 24}}}
    with pytest.raises(UnusableSpecError, match=r"model\.image\.head: .* already has a head"):
        build(digits_manifest, other)


def test_an_export_that_lacks_a_described_part_is_refused(extended, tmp_path):
    export_clip(extended, tmp_path / "export", card=CARD)
    path = tmp_path / "export" / "attune.json"
    described = json.loads(path.read_text())
    del described["extras"]["text_prompt"]
    path.write_text(json.dumps(described))
    with pytest.raises(UnusableSpecError, match=r"does not hold what attune\.json describes: text_prompt\.vectors"):
        load_clip(ModelSpec(name=f"local-dir:{tmp_path / 'export'}"))


def test_towers_must_agree_in_size(tmp_path, digits_manifest):
    base = build(digits_manifest, "attune-tiny-32")
    export_clip(base, tmp_path / "export", card=CARD)
    model = {"name": f"local-dir:{tmp_path / 'export'}", "image": {"head": {"output_size": 24}}}
    with pytest.raises(UnusableSpecError, match="gives 24 dimensions and model.text.head 64"):
        build(digits_manifest, model)
