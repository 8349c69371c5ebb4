"""The stages' shapes, tower by tower, and what ties them together."""

import pytest
import timm
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from trainer.errors import UnusableSpecError
from trainer.image_inference.features import check_stage, clip_features, timm_features

TEXT = CLIPTextCfg(context_length=8, vocab_size=32, width=32, heads=2, layers=1)


def clip_towers(**vision):
    torch.manual_seed(0)
    return CLIP(24, vision_cfg=CLIPVisionCfg(**vision), text_cfg=TEXT).eval()


@torch.no_grad()
def shapes(compute, model, images):
    return {stage: [tuple(f.shape) for f in compute(model, images, stage=stage)] for stage in STAGES}


STAGES = ("backbone", "neck", "pre_logits")


def test_clips_vit_pools_in_front_of_the_projection():
    towers = clip_towers(image_size=32, patch_size=8, width=48, head_width=16, layers=2)
    images = torch.randn(2, 3, 32, 32)
    assert shapes(clip_features, towers, images) == {
        "backbone": [(2, 48)],
        "neck": [(2, 48)],
        "pre_logits": [(2, 24)],
    }
    with torch.no_grad():
        (pooled,), (embedding,) = (clip_features(towers, images, stage=s) for s in ("neck", "pre_logits"))
        torch.testing.assert_close(pooled @ towers.visual.proj, embedding)


def test_clips_resnet_gives_its_last_map():
    towers = clip_towers(image_size=64, layers=(1, 1, 1, 1), width=8, head_width=16)
    images = torch.randn(2, 3, 64, 64)
    assert shapes(clip_features, towers, images) == {
        "backbone": [(2, 256, 2, 2)],
        "neck": [(2, 24)],
        "pre_logits": [(2, 24)],
    }
    with torch.no_grad():
        (last_map,) = clip_features(towers, images, stage="backbone")
        torch.testing.assert_close(towers.visual.attnpool(last_map), towers.encode_image(images))


def test_a_timm_tower_inside_an_image_text_model_is_opened():
    towers = clip_towers(timm_model_name="convnext_atto", timm_pool="avg", timm_proj="linear", image_size=32)
    width = timm.create_model("convnext_atto").num_features
    assert shapes(clip_features, towers, torch.randn(2, 3, 32, 32)) == {
        "backbone": [(2, width, 1, 1)],
        "neck": [(2, width)],
        "pre_logits": [(2, 24)],
    }


SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "arguments", "size", "expected"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1}, 32, [(2, 192), (2, 192), (2, 192)]),
        ("resnet18", {}, 64, [(2, 512, 2, 2), (2, 512), (2, 512)]),
        ("mobilenetv3_small_050", {}, 64, [(2, 288, 2, 2), (2, 288), (2, 1024)]),
        ("swin_tiny_patch4_window7_224", SWIN, 64, [(2, 128, 2, 2), (2, 128), (2, 128)]),
    ],
)
def test_timms_towers(name, arguments, size, expected):
    model = timm.create_model(name, num_classes=7, **arguments).eval()
    images = torch.randn(2, 3, size, size)
    assert shapes(timm_features, model, images) == {s: [e] for s, e in zip(STAGES, expected, strict=True)}
    with torch.no_grad():
        (before_head,) = timm_features(model, images, stage="pre_logits")
        torch.testing.assert_close(model.get_classifier()(before_head), model(images))


@pytest.mark.slow
def test_clips_resnet_in_timm_pools_by_attention():
    model = timm.create_model("resnet50_clip", img_size=64).eval()
    found = shapes(timm_features, model, torch.randn(1, 3, 64, 64))
    assert found == {"backbone": [(1, 2048, 2, 2)], "neck": [(1, 2048)], "pre_logits": [(1, 2048)]}


def test_another_stage_is_refused():
    with pytest.raises(UnusableSpecError, match="stage is 'head'; allowed: backbone, neck, pre_logits"):
        check_stage("head")
