import math

import open_clip
import pytest
import torch

from trainer.freezing import freeze_matching
from trainer.heads import ImageClassifier
from trainer.models import clip_classifier, load_clip, load_timm_classifier
from trainer.optim import build_optimizer, layer_positions, parameter_groups
from trainer.spec import ModelSpec, OptimSpec


@pytest.fixture(scope="module")
def clip():
    return load_clip(ModelSpec(name="attune-tiny-32"))


def on_meta(architecture):
    with torch.device("meta"):
        return open_clip.CLIP(**open_clip.get_model_config(architecture))


def scales_by_name(module, **spec):
    groups = parameter_groups(module, spec=OptimSpec(**spec))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    return {name: scales[id(p)] for name, p in module.named_parameters() if id(p) in scales}


def test_every_parameter_is_in_exactly_one_group(clip):
    grouped = [
        id(p) for group in parameter_groups(clip.module, spec=OptimSpec(layer_decay=0.6)) for p in group["params"]
    ]
    assert sorted(grouped) == sorted(id(p) for p in clip.module.parameters())


def test_layer_decay_falls_from_the_head_to_the_embeddings_of_each_tower(clip):
    scales = scales_by_name(clip.module, layer_decay=0.5)  # 4 image blocks, 2 text blocks
    assert scales["visual.conv1.weight"] == scales["visual.class_embedding"] == 0.5**5
    assert scales["visual.transformer.resblocks.0.ln_1.weight"] == 0.5**4
    assert scales["visual.transformer.resblocks.3.ln_1.weight"] == 0.5
    assert scales["visual.ln_post.weight"] == scales["visual.proj"] == 1
    assert scales["token_embedding.weight"] == scales["positional_embedding"] == 0.5**3
    assert scales["transformer.resblocks.1.ln_1.weight"] == 0.5
    assert scales["text_projection"] == scales["logit_scale"] == 1


def test_a_classifiers_head_learns_at_the_full_rate(clip):
    scales = scales_by_name(clip_classifier(clip, class_names=["a", "b"]).module, layer_decay=0.5)
    assert scales["head.weight"] == scales["trunk.ln_post.weight"] == 1
    assert scales["trunk.conv1.weight"] == 0.5**5


def test_vit_b16_has_the_published_fourteen_scales():
    visual = on_meta("ViT-B-16").visual
    visual.proj = None
    classifier = ImageClassifier(visual, num_features=768, num_classes=1000)
    scales = set(scales_by_name(classifier, layer_decay=0.6).values())
    assert sorted(scales) == pytest.approx([0.6 ** (13 - i) for i in range(14)])
    assert min(scales) == pytest.approx(0.0013060694, abs=1e-10)


def test_resnet_towers_count_stem_stages_and_pool():
    positions = layer_positions(on_meta("RN50"))
    assert positions["visual.conv1.weight"].layer == 0
    assert positions["visual.layer3.0.conv1.weight"].layer == 3
    assert positions["visual.attnpool.c_proj.weight"].layer == positions["visual.attnpool.c_proj.weight"].top == 5


def test_timm_trunks_use_timms_own_layers():
    module = load_timm_classifier(ModelSpec(name="timm/vit_tiny_patch16_224"), class_names=["a", "b"]).module
    scales = scales_by_name(module, layer_decay=0.5)
    assert scales["trunk.patch_embed.proj.weight"] < scales["trunk.blocks.0.attn.qkv.weight"]
    assert scales["trunk.blocks.11.attn.qkv.weight"] < scales["head.weight"] == 1


def test_vectors_and_embeddings_do_not_decay_unless_asked(clip):
    def decayed(**spec):
        groups = parameter_groups(clip.module, spec=OptimSpec(weight_decay=0.1, **spec))
        ids = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        return {name for name, p in clip.module.named_parameters() if id(p) in ids}

    plain = decayed()
    assert "visual.conv1.weight" in plain
    assert "token_embedding.weight" in plain
    assert not {"logit_scale", "positional_embedding", "visual.class_embedding", "visual.ln_post.weight"} & plain
    assert len(decayed(decay_vectors=True)) == len(list(clip.module.parameters()))


def test_the_logit_scale_is_held_at_its_limit_and_can_come_down_again():
    module = torch.nn.Module()
    module.visual = torch.nn.Linear(2, 2)
    module.logit_scale = torch.nn.Parameter(torch.tensor([math.log(99.0)]))
    optimizer = build_optimizer(module, spec=OptimSpec(lr=0.5, weight_decay=0), max_logit_scale=100.0)
    for gradient, expected in ((-1.0, math.log(100)), (1.0, None)):
        module.logit_scale.grad = torch.tensor([gradient])
        optimizer.step()
        optimizer.state.clear()
        if expected is not None:
            assert module.logit_scale.item() == pytest.approx(expected)
    assert module.logit_scale.item() < math.log(100) - 0.4


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_freezing_patterns_apply_in_order_and_the_last_match_wins():
    module = load_clip(ModelSpec(name="attune-tiny-32")).module
    freeze_matching(module, patterns=["visual.*", "!visual.transformer.resblocks.3.*", "*.mlp.*"])
    names = trainable(module)
    assert "visual.conv1.weight" not in names
    assert "visual.transformer.resblocks.3.attn.in_proj_weight" in names
    assert "visual.transformer.resblocks.3.mlp.c_fc.weight" not in names
    assert "logit_scale" in names


@pytest.mark.parametrize(("patterns", "words"), [(["visual.nothing*"], "visual.nothing"), (["*"], "nothing to train")])
def test_useless_patterns_are_refused(patterns, words):
    module = load_clip(ModelSpec(name="attune-tiny-32")).module
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        freeze_matching(module, patterns=patterns)
