"""Adapters inside towers, and models without them that compute the same."""

import copy

import open_clip
import pytest
import torch

from trainer import adapters
from trainer.errors import UnusableSpecError
from trainer.export import export_clip
from trainer.model_card import ModelCard
from trainer.model_setup import build_model
from trainer.models import load_clip
from trainer.spec import Adapter, JobSpec
from trainer.split_attention import SplitAttention

METHODS = ("lora", "dora", "loha", "lokr", "ia3", "vera")


def adapted(image=None, text=None):
    towers = {name: {"adapter": adapter} for name, adapter in (("image", image), ("text", text)) if adapter}
    return JobSpec.model_validate({"model": {"name": "attune-tiny-32", **towers}})


def build(spec, manifest):
    torch.manual_seed(0)
    return build_model(spec, train=manifest)


def train_a_little(module, images, tokens):
    """Steps large enough that adapters count."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=30.0)
    for _ in range(3):
        image_features, text_features, _ = module(images, tokens)
        loss = -(image_features.roll(1, 0) * text_features).sum() + image_features.std() + text_features.std()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_merged_weights_compute_what_adapters_do_and_open_clip_loads_them(
    method, digits_manifest, digit_images, tmp_path
):
    spec = adapted(image={"method": method}, text={"method": method})
    model = build(spec, digits_manifest)
    module, tokens = model.module, model.tokenize(["one", "two", "three", "four"])
    torch.manual_seed(0)
    plain = load_clip(spec.model).module.eval()
    with torch.no_grad():
        before = module.eval().encode_image(digit_images), module.encode_text(tokens)
        torch.testing.assert_close(before[0], plain.encode_image(digit_images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(before[1], plain.encode_text(tokens), rtol=1e-4, atol=1e-5)
    train_a_little(module, digit_images, tokens)
    export_clip(model, tmp_path / "export", card=ModelCard(spec=None, metrics={}))
    merged = open_clip.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    with torch.no_grad():
        for unmerged, exported, first in (
            (module.encode_image(digit_images), merged.encode_image(digit_images), before[0]),
            (module.encode_text(tokens), merged.encode_text(tokens), before[1]),
        ):
            assert (unmerged - first).abs().max() > 1e-3  # the adapters learned something
            torch.testing.assert_close(exported, unmerged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_only_adapters_and_what_is_opened_train(method, digits_manifest):
    spec = adapted(image={"method": method})
    spec = spec.model_copy(
        update={
            "model": spec.model.model_copy(
                update={"image": spec.model.image.model_copy(update={"lock_patterns": ("!ln_post",)})}
            )
        }
    )
    module = build(spec, digits_manifest).module
    trained = [name for name, p in module.visual.named_parameters() if p.requires_grad]
    assert {"ln_post.weight", "ln_post.bias"} < set(trained)
    marks = ("lora_", "hada_", "lokr_", "ia3_", "vera_")
    assert all(name.startswith("ln_post") or any(mark in name for mark in marks) for name in trained)
    assert all(p.requires_grad for n, p in module.named_parameters() if not n.startswith("visual."))


def test_targets_choose_layers(digits_manifest):
    module = build(adapted(image={"targets": ["*.mlp.c_fc"]}, text={"targets": "*attn"}), digits_manifest).module
    layers = {name for name, part in module.named_modules() if hasattr(part, "base_layer")}
    mlp = {f"visual.transformer.resblocks.{n}.mlp.c_fc" for n in range(4)}
    parts = ("q_proj", "k_proj", "v_proj", "out_proj")
    assert layers == mlp | {f"transformer.resblocks.{n}.attn.{part}" for n in range(2) for part in parts}


def test_a_pattern_without_a_layer_is_refused(digits_manifest):
    with pytest.raises(UnusableSpecError, match=r"model\.text\.adapter\.targets: '\*fc9' matches no linear layer"):
        build(adapted(text={"targets": ["*mlp*", "*fc9"]}), digits_manifest)


def test_split_attention_computes_what_torchs_does():
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    torch.nn.init.normal_(attention.in_proj_bias)
    torch.nn.init.normal_(attention.out_proj.bias)
    states, mask = torch.randn(3, 7, 32), torch.full((7, 7), -torch.inf).triu(1)
    split = SplitAttention(attention)
    for given in (None, mask):
        expected, _ = attention(states, states, states, need_weights=False, attn_mask=given)
        found, _ = split(states, states, states, need_weights=False, attn_mask=given)
        torch.testing.assert_close(found, expected)
    assert all(torch.equal(p, q) for p, q in zip(attention.parameters(), split.joined().parameters(), strict=True))


def test_a_deep_copy_has_adapters_of_its_own(digits_manifest, digit_images):
    module = build(adapted(image={"method": "vera"}), digits_manifest).module.eval()
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "vera_lambda" in name:
                parameter.add_(1.0)
        assert not torch.allclose(twin.encode_image(digit_images), module.encode_image(digit_images))


def test_adapters_inside_a_locked_tower_still_train_with_dropout(digits_manifest):
    towers = {"image": {"lock": True, "adapter": {"dropout": 0.5, "targets": "*c_fc"}}}
    spec = JobSpec.model_validate({"model": {"name": "attune-tiny-32", **towers}})
    module = build(spec, digits_manifest).module.train()
    layer = module.visual.transformer.resblocks[0].mlp.c_fc
    assert layer.lora_dropout["default"].training
    assert not layer.base_layer.training
    assert not module.visual.transformer.resblocks[0].ln_1.training
    assert module.transformer.training


def test_adapters_fit_towers_of_timm():
    import timm

    torch.manual_seed(0)
    tower = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    images = torch.randn(2, 3, 224, 224)
    names = dict(tower.named_parameters())
    adapters.inject(
        tower, Adapter(method="dora", targets=("*qkv", "*mlp.fc?")), field="model.image.adapter", names=names
    )
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        plain = adapters.merged(tower.eval())
        torch.testing.assert_close(plain(images), tower(images), rtol=1e-3, atol=1e-4)
    assert not adapters.has_adapters(plain)
