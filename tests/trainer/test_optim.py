import copy
import math

import open_clip
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from trainer.ema import track_average
from trainer.freezing import freeze_matching
from trainer.heads import ImageClassifier
from trainer.layer_positions import layer_positions
from trainer.models import clip_classifier, load_clip, load_timm_classifier
from trainer.optim import build_optimizer, parameter_groups
from trainer.spec import JobSpec, ModelSpec

OPTIMIZERS = ("adamw", "adam", "sgd", "nadam", "radam", "rmsprop", "adadelta", "lion")


def job(*, objective="contrastive", compat=(), limit=None, l2_sp=None, **optim):
    fields = {"contrastive": {"max_logit_scale": limit}, "classification": {"l2_sp": l2_sp or 0.0, "head": "fresh"}}
    return JobSpec.model_validate(
        {
            "model": "attune-tiny-32",
            "objective": {"name": objective, **fields[objective]},
            "optim": optim,
            "compat": compat,
        }
    )


@pytest.fixture(scope="module")
def clip():
    return load_clip(ModelSpec(name="attune-tiny-32"))


def on_meta(architecture):
    with torch.device("meta"):
        return open_clip.CLIP(**open_clip.get_model_config(architecture))


def by_name(module, key, **spec):
    groups = parameter_groups(module, spec=job(**spec))
    values = {id(p): group[key] for group in groups for p in group["params"]}
    return {name: values[id(p)] for name, p in module.named_parameters() if id(p) in values}


def scales_by_name(module, **spec):
    return by_name(module, "lr_scale", **spec)


def test_every_parameter_is_in_exactly_one_group(clip):
    grouped = [id(p) for group in parameter_groups(clip.module, spec=job(layer_decay=0.6)) for p in group["params"]]
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


def test_each_group_says_which_layer_it_is(clip):
    layers = by_name(clip.module, "layer_id", layer_decay=0.5)
    assert layers["visual.conv1.weight"] == layers["token_embedding.weight"] == 0
    assert layers["visual.transformer.resblocks.3.ln_1.weight"] == 4
    assert layers["visual.proj"] == 5
    assert layers["text_projection"] == layers["logit_scale"] == 3


def test_without_layer_wise_rates_there_is_a_group_for_each_weight_decay(clip):
    groups = parameter_groups(clip.module, spec=job(weight_decay=0.1))
    assert [(group["layer_id"], group["weight_decay"]) for group in groups] == [(None, 0), (None, 0.1)]


def test_the_text_tower_can_have_a_layer_decay_of_its_own(clip):
    scales = scales_by_name(clip.module, layer_decay=0.5, layer_decay_text=0.9)
    assert scales["visual.conv1.weight"] == 0.5**5
    assert scales["token_embedding.weight"] == 0.9**3
    untouched = scales_by_name(clip.module, layer_decay=0.5, layer_decay_text=1.0)
    assert untouched["token_embedding.weight"] == 1


def test_the_backbone_learns_at_its_own_rate_below_the_topmost_layer(clip):
    scales = scales_by_name(clip.module, layer_decay=0.5, backbone_lr_multiplier=0.1)
    assert scales["visual.conv1.weight"] == pytest.approx(0.1 * 0.5**5)
    assert scales["transformer.resblocks.1.ln_1.weight"] == pytest.approx(0.05)
    assert scales["visual.proj"] == scales["text_projection"] == 1


def test_a_classifiers_head_learns_at_the_full_rate(clip):
    scales = scales_by_name(
        clip_classifier(clip, class_names=["a", "b"]).module, objective="classification", layer_decay=0.5
    )
    assert scales["head.weight"] == scales["trunk.ln_post.weight"] == 1
    assert scales["trunk.conv1.weight"] == 0.5**5


def test_a_classifiers_head_can_learn_faster_than_the_rest(clip):
    module = clip_classifier(clip, class_names=["a", "b"]).module
    scales = scales_by_name(module, objective="classification", head_lr_multiplier=10)
    assert {name for name, scale in scales.items() if scale == 10} == {"head.weight", "head.bias"}
    assert scales["trunk.ln_post.weight"] == scales["trunk.conv1.weight"] == 1


def test_vit_b16_has_the_published_fourteen_scales():
    visual = on_meta("ViT-B-16").visual
    visual.proj = None
    classifier = ImageClassifier(visual, num_features=768, num_classes=1000)
    scales = set(scales_by_name(classifier, objective="classification", layer_decay=0.6).values())
    assert sorted(scales) == pytest.approx([0.6 ** (13 - i) for i in range(14)])
    assert min(scales) == pytest.approx(0.0013060694, abs=1e-10)


def test_the_shared_embedding_of_an_encoder_and_decoder_is_next_to_the_input():
    module = torch.nn.Module()
    module.visual = torch.nn.Linear(1, 1)
    module.text = T5EncoderModel(T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=2, num_heads=2))
    positions = layer_positions(module)
    assert (positions["text.shared.weight"].layer, positions["text.shared.weight"].tower) == (0, "text")
    assert positions["text.encoder.block.1.layer.0.SelfAttention.q.weight"].layer == 2
    assert positions["text.encoder.final_layer_norm.weight"].layer == positions["text.shared.weight"].top == 3


def test_resnet_towers_count_stem_stages_and_pool():
    positions = layer_positions(on_meta("RN50"))
    assert positions["visual.conv1.weight"].layer == 0
    assert positions["visual.layer3.0.conv1.weight"].layer == 3
    assert positions["visual.attnpool.c_proj.weight"].layer == positions["visual.attnpool.c_proj.weight"].top == 5


def test_resnet_towers_have_eight_ids_as_in_itra_if_asked():
    positions = layer_positions(on_meta("RN50"), itra=True)
    assert positions["visual.bn1.weight"].layer == 1
    assert positions["visual.layer3.0.conv1.weight"].layer == 4
    assert positions["visual.attnpool.c_proj.weight"].layer == positions["visual.attnpool.c_proj.weight"].top == 7


def test_embeddings_learn_at_the_full_rate_as_in_itra_if_asked(clip):
    scales = scales_by_name(clip.module, layer_decay=0.5, compat=("itra-layer-decay",))
    full = {name for name, scale in scales.items() if scale == 1}
    assert {"visual.conv1.weight", "visual.class_embedding", "visual.ln_pre.bias", "token_embedding.weight"} <= full
    assert scales["visual.transformer.resblocks.0.ln_1.weight"] == 0.5**4


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch32_clip_224"])
def test_timm_vits_are_layered_like_those_of_open_clip(name):
    module = load_timm_classifier(ModelSpec(name=f"timm/{name}"), class_names=["a", "b"], weights=False).module
    scales = scales_by_name(module, objective="classification", layer_decay=0.5)
    first = {scale for part, scale in scales.items() if "embed" in part or "token" in part or "norm_pre" in part}
    assert first == {0.5**13}
    assert scales["trunk.blocks.11.attn.qkv.weight"] == 0.5
    assert scales["trunk.norm.weight"] == scales["head.weight"] == 1


def test_other_timm_trunks_use_timms_own_layers():
    module = load_timm_classifier(ModelSpec(name="timm/convnext_atto"), class_names=["a", "b"], weights=False).module
    scales = scales_by_name(module, objective="classification", layer_decay=0.5)
    stages = [scales[f"trunk.stages.{n}.blocks.0.conv_dw.weight"] for n in range(4)]
    assert scales["trunk.stem.0.weight"] < stages[0] < stages[1] < stages[2] < stages[3] < scales["head.weight"] == 1


def test_vectors_and_embeddings_do_not_decay_unless_asked(clip):
    def decayed(**spec):
        groups = parameter_groups(clip.module, spec=job(weight_decay=0.1, **spec))
        ids = {id(p) for group in groups if group["weight_decay"] and group["decays"] for p in group["params"]}
        return {name for name, p in clip.module.named_parameters() if id(p) in ids}

    plain = decayed()
    assert "visual.conv1.weight" in plain
    assert "token_embedding.weight" in plain
    assert not {"logit_scale", "positional_embedding", "visual.class_embedding", "visual.ln_post.weight"} & plain
    assert len(decayed(decay_vectors=True)) == len(list(clip.module.parameters()))
    as_in_itra = decayed(compat=("itra-weight-decay",))
    assert as_in_itra - plain == {"positional_embedding", "visual.positional_embedding"}


def test_the_logit_scale_is_held_at_its_limit_and_can_come_down_again():
    module = torch.nn.Module()
    module.visual = torch.nn.Linear(2, 2)
    module.logit_scale = torch.nn.Parameter(torch.tensor([math.log(99.0)]))
    optimizer = build_optimizer(module, spec=job(lr=0.5, weight_decay=0, limit=100.0))
    for gradient, expected in ((-1.0, math.log(100)), (1.0, None)):
        module.logit_scale.grad = torch.tensor([gradient])
        optimizer.step()
        optimizer.state.clear()
        if expected is not None:
            assert module.logit_scale.item() == pytest.approx(expected)
    assert module.logit_scale.item() < math.log(100) - 0.4


def quadratic(name, **more):
    """An optimizer on two small parameters, its module, and a step towards zero."""
    torch.manual_seed(0)
    module = ImageClassifier(torch.nn.Linear(3, 3), num_features=3, num_classes=2)
    spec = job(objective="classification", name=name, lr=0.01, weight_decay=0.1, eps=1e-8, **more)
    optimizer = build_optimizer(module, spec=spec)

    def step():
        optimizer.zero_grad()
        sum(p.square().sum() for p in module.parameters()).backward()
        optimizer.step()

    return optimizer, module, step


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_descends_and_resumes_bit_for_bit_with_average_and_l2_sp(name):
    def start():
        optimizer, module, step = quadratic(name, l2_sp=0.3)
        track_average(optimizer, decay=0.9)
        return optimizer, module, step

    optimizer, module, step = start()
    first = weights(module)
    for _ in range(3):
        step()
    assert weights(module).square().sum() < first.square().sum()
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    resumed, other, other_step = start()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    step()
    other_step()
    assert torch.equal(weights(module), weights(other))
    starts = torch.cat([resumed.state[p]["start"].flatten() for p in other.trunk.parameters()])
    assert torch.equal(starts, first[: len(starts)])
    assert not any("start" in resumed.state[p] for p in other.head.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_works_element_by_element(name):
    """ZeRO hands over all weights of a group as one vector, or a part of it."""
    _, module, step = quadratic(name, l2_sp=0.3)
    decays = torch.tensor([name == "trunk.weight" for name, p in module.named_parameters() for _ in range(p.numel())])
    together = torch.nn.Parameter(weights(module)[decays])
    holder = ImageClassifier(torch.nn.Linear(1, 1), num_features=1, num_classes=1)
    optimizer = build_optimizer(
        holder, spec=job(objective="classification", name=name, lr=0.01, weight_decay=0.1, eps=1e-8, l2_sp=0.3)
    )
    for group in optimizer.param_groups:
        group["params"] = [together] if group["weight_decay"] and group["pulled"] else []
    for _ in range(3):
        step()
        together.grad = 2 * together.detach()
        optimizer.step()
    torch.testing.assert_close(together.detach(), weights(module)[decays], rtol=0, atol=1e-7)


def test_nesterov_changes_sgd_from_the_second_step_on():
    plain, nesterov = (quadratic("sgd", nesterov=flag) for flag in (False, True))
    for _, _, step in (plain, nesterov):
        step()
        step()
    assert not torch.equal(weights(plain[1]), weights(nesterov[1]))


def test_l2_sp_is_the_gradient_of_the_squared_distance_from_the_start_and_spares_the_head():
    optimizer, module, _ = quadratic("sgd", l2_sp=0.4, momentum=0.0)
    reference, start = weights(module).clone(), weights(module).clone()
    named = [(name, p) for name, p in module.named_parameters() for _ in range(p.numel())]
    decays = torch.tensor([0.1 if p.ndim > 1 else 0.0 for _, p in named])
    pulls = torch.tensor([0.0 if name.startswith("head.") else 2 * 0.4 for name, _ in named])
    assert 0 < pulls.count_nonzero() < len(pulls)
    for _ in range(4):
        optimizer.zero_grad()
        sum(p.sin().sum() for p in module.parameters()).backward()
        optimizer.step()
        reference -= 0.01 * (reference.cos() + pulls * (reference - start) + decays * reference)
    torch.testing.assert_close(weights(module), reference)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "adamw", "nesterov": True}, "optim.nesterov"),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, "optim.nesterov"),
        ({"head_lr_multiplier": 10.0}, "optim.head_lr_multiplier"),
        ({"objective": "classification", "layer_decay_text": 0.9}, "optim.layer_decay_text"),
        ({"weight_decay": 0.0, "weight_decay_end": 0.0}, "optim.weight_decay_end"),
        ({"compat": ("itra-layer-decay",)}, "compat"),
        ({"compat": ("itra-weight-decay",), "decay_vectors": True}, "compat"),
    ],
)
def test_impossible_optimizers_are_refused_with_the_field(change, field):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        job(**change)


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


def test_a_pattern_that_matches_nothing_is_refused():
    module = load_clip(ModelSpec(name="attune-tiny-32")).module
    with pytest.raises(ValueError, match=r"visual\.nothing"):
        freeze_matching(module, patterns=["visual.nothing*"])
