"""The figures that the source systems publish or that follow from their code, against the built models and recipes.

Expected numbers are typed here and nowhere else; rows without a published figure are held against a closed form.
"""

import functools
import math

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812

from trainer.heads import ImageClassifier, init_fresh_head
from trainer.model_setup import build_structure
from trainer.models import load_clip
from trainer.optim import parameter_groups
from trainer.plan import compute
from trainer.plan.assemble import Assumptions, count_parameters, make_plan
from trainer.recipes import RECIPES
from trainer.resolve import resolve
from trainer.schedules import build_schedule
from trainer.spec import JobSpec, ModelSpec

FT_CLIP = ("ft-clip-vit-b16-224", "ft-clip-vit-b16-384", "ft-clip-vit-l14-224", "ft-clip-vit-l14-336")


@functools.cache
def plan(recipe, steps=None):
    return make_plan(resolve(recipe=recipe, runnable=False), assumptions=Assumptions(steps=steps))


def rates_of_last_epoch(recipe):
    spec = resolve(recipe=recipe, runnable=False)
    steps_per_epoch = plan(recipe)["schedule"]["steps_per_epoch"]
    schedule = build_schedule(spec, steps_per_epoch=steps_per_epoch)
    return [schedule.lr_at(step) for step in range(schedule.total_steps - steps_per_epoch, schedule.total_steps)]


def parameters(model, **sections):
    spec = JobSpec.model_validate({"model": model, **sections})
    return count_parameters(build_structure(spec, num_classes=1000), spec=spec)


def timm_classifier(name, *, image_size=None):
    model = {"name": f"timm/{name}", "image_size": image_size}
    spec = JobSpec.model_validate({"model": model, "objective": {"name": "classification", "head": "fresh"}})
    return build_structure(spec, num_classes=1000).module


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def block(width):
    """Parameters of a transformer block."""
    return 12 * width**2 + 13 * width


# FT-CLIP


@pytest.mark.parametrize(
    ("recipe", "trainable"), [*zip(FT_CLIP, (85_978_600, 86_860_264, 303_602_664, 304_532_456), strict=True)]
)
def test_ft_clip_trains_as_many_parameters_as_its_logs_say(recipe, trainable):
    assert plan(recipe)["parameters"]["trainable"] == trainable


def test_ft_clip_decays_matrices_only():
    assert plan("ft-clip-vit-b16-224")["parameters"]["weight_decayed"] == 85_702_656
    assert plan("ft-clip-vit-l14-224")["parameters"]["weight_decayed"] == 24 * 12 * 1024**2 + 1000 * 1024


@pytest.mark.parametrize(("recipe", "groups"), [*zip(FT_CLIP, (27, 28, 1 + 2 * 24 + 2, 2 + 2 * 24 + 2), strict=True)])
def test_ft_clip_has_a_group_for_each_layer_and_weight_decay(recipe, groups):
    found = plan(recipe)["optimizer"]["groups"]
    assert len(found) == groups
    assert len({(group["layer_id"], group["weight_decay"]) for group in found}) == groups


def scales(recipe):
    found = {group["layer_id"]: group["lr_scale"] for group in plan(recipe)["optimizer"]["groups"]}
    return [found[layer] for layer in range(len(found))]


def test_layer_decay_of_vit_b16():
    published = (
        *(0.0013060694, 0.0021767823, 0.0036279706, 0.0060466176, 0.010077696, 0.01679616, 0.0279936),
        *(0.046656, 0.07776, 0.1296, 0.216, 0.36, 0.6, 1.0),
    )
    found = scales("ft-clip-vit-b16-224")
    assert [float(f"{scale:.8g}") for scale in found] == list(published)
    rates = [6e-4 * scale for scale in found]
    assert float(f"{rates[0]:.8g}") == 7.8364164e-7
    assert (float(f"{rates[12]:.15g}"), rates[13]) == (3.6e-4, 6e-4)


def test_layer_decay_of_vit_l14():
    found = scales("ft-clip-vit-l14-224")
    assert found == pytest.approx([math.exp((25 - layer) * math.log(0.65)) for layer in range(26)], rel=1e-12)
    assert [float(f"{scale:.12g}") for scale in found[-4:]] == [0.274625, 0.4225, 0.65, 1]


def test_ft_clips_mean_rate_of_the_last_epoch():
    assert plan("ft-clip-vit-b16-224")["schedule"]["total_steps"] == 31_250
    rates = rates_of_last_epoch("ft-clip-vit-b16-224")
    logged = 1.3085551426214094e-6
    # The last bit of a mean over 625 numbers is a matter of the order of summation.
    assert abs(math.fsum(rates) / len(rates) - logged) <= math.ulp(logged)


@pytest.mark.parametrize(
    ("recipe", "peak", "steps_per_epoch", "steps"),
    [("ft-clip-vit-l14-224", 4e-4, 625, 18_750), ("ft-clip-vit-l14-336", 6e-4, 667, 20_010)],
)
def test_ft_clips_steps_and_mean_rate_with_vit_l14(recipe, peak, steps_per_epoch, steps):
    assert plan(recipe)["schedule"]["total_steps"] == steps
    total, warmup = 30 * steps_per_epoch, 5 * steps_per_epoch
    first, last, angle = total - steps_per_epoch - warmup, total - 1 - warmup, math.pi / (total - warmup)
    cosines = math.sin(steps_per_epoch * angle / 2) / math.sin(angle / 2) * math.cos((first + last) * angle / 2)
    mean = 1e-6 + 0.5 * (peak - 1e-6) * (1 + cosines / steps_per_epoch)
    rates = rates_of_last_epoch(recipe)
    assert math.fsum(rates) / len(rates) == pytest.approx(mean, rel=1e-10)


@pytest.mark.parametrize(
    ("recipe", "macs"), [*zip(FT_CLIP, (17_471_649_792, 55_378_163_712, 80_685_801_472, 190_601_469_952), strict=True)]
)
def test_ft_clips_count_of_multiply_adds(recipe, macs):
    conventions = plan(recipe)["compute"]["conventions"]
    assert conventions["ft_clip"]["forward_macs_per_image"] == macs


def test_ft_clips_count_for_vit_l16():
    shape = compute.vit_shape(timm_classifier("vit_large_patch16_384"))
    assert compute.ft_clip_macs(shape) == 190_707_638_272


# mmpretrain


@pytest.mark.parametrize(("patch", "total"), [(32, 88_225_000), (16, 86_568_424)])
def test_mmpretrains_parameters_are_those_at_224_pixels(patch, total):
    assert count(timm_classifier(f"vit_base_patch{patch}_clip_224")) == total


@pytest.mark.parametrize(
    ("name", "size", "total"),
    [
        ("vit_base_patch32_clip_224", 384, 88_297_960),
        ("vit_base_patch32_clip_224", 448, 88_337_896),
        ("vit_base_patch16_clip_224", 384, 86_860_264),
        ("vit_large_patch14_clip_224", None, 304_204_776),
        ("vit_large_patch14_clip_336", None, 304_532_456),
    ],
)
def test_parameters_at_other_sizes_include_the_position_embeddings(name, size, total):
    assert count(timm_classifier(name, image_size=size)) == total


@pytest.mark.parametrize(
    ("patch", "size", "macs"),
    [
        (32, 224, 4_364_335_104),
        (32, 384, 12_661_054_464),
        (32, 448, 17_202_416_640),
        (16, 224, 16_855_600_128),
        (16, 384, 49_370_078_208),
    ],
)
def test_mmpretrains_count_of_multiply_adds(patch, size, macs):
    shape = compute.vit_shape(timm_classifier(f"vit_base_patch{patch}_clip_224", image_size=size))
    assert compute.mmpretrain_macs(shape) == macs


def test_mmpretrains_large_p14_is_a_p16():
    def headless(patch):
        with torch.device("meta"):
            trunk = timm.create_model("vit_large_patch14_clip_224", patch_size=patch, num_classes=0)
            return ImageClassifier(trunk, num_features=1024, num_classes=1)

    assert count(headless(16).trunk) == 303_302_656
    assert compute.mmpretrain_macs(compute.vit_shape(headless(16)), norm_cost=5) == 59_696_580_608
    assert compute.mmpretrain_macs(compute.vit_shape(headless(14)), norm_cost=5) == 77_831_333_888


# OpenAI's CLIP


@pytest.mark.parametrize(
    ("name", "total", "image"),
    [
        ("RN50", 102_007_137, 38_316_896),
        ("ViT-B-32", 151_277_313, 87_849_216),
        ("ViT-B-16", 149_620_737, 86_192_640),
        ("ViT-L-14", 427_616_513, 303_966_208),  # ITRA's tables give those at 336 pixels
        ("ViT-L-14-336", 427_944_193, 304_293_888),
    ],
)
def test_parameters_of_openais_models(name, total, image):
    found = parameters(f"{name}/openai")
    assert (found["total"], found["trainable"], found["image"], found["text"]) == (total, total, image, total - image)


# ITRA


def trainable_beside_logit_scale(name, *, image=None, text=None):
    """Parameters that train with parts of the towers locked; None locks one whole."""
    towers = {
        tower: {"lock": True} if patterns is None else {"lock": patterns != "all", **patterns_of(patterns)}
        for tower, patterns in (("image", image), ("text", text))
    }
    return parameters({"name": f"{name}/openai", **towers})["trainable"] - 1


def patterns_of(patterns):
    return {} if patterns == "all" else {"lock_patterns": [f"!{word}" for word in patterns]}


@pytest.mark.parametrize(("layers", "total"), [(1, 2_099_200), (3, 16_787_456)])
def test_itras_heads_on_locked_towers(layers, total):
    tower = {"lock": True, "head": {"layers": layers}}
    assert parameters({"name": "RN50/openai", "image": tower, "text": tower})["trainable"] - 1 == total


@pytest.mark.parametrize(
    ("first_block", "total"),
    [
        (12, 525_312),
        (11, 3_677_696),
        (10, 6_830_080),
        (8, 13_134_848),
        (6, 19_439_616),
        (4, 25_744_384),
        (2, 32_049_152),
        (0, 38_353_920),
    ],
)
def test_itras_partly_locked_text_tower(first_block, total):
    opened = ["text_projection", "ln_final", *(f"resblocks.{number}" for number in range(first_block, 12))]
    assert trainable_beside_logit_scale("RN50", text=opened) == total


@pytest.mark.parametrize(
    ("opened", "total"),
    [
        (("attnpool",), 14_789_632),
        (("attnpool", "layer4"), 29_754_368),
        (("attnpool", "layer4", "layer3"), 36_852_736),
        (("attnpool", "layer4", "layer3", "layer2"), 38_072_320),
        (("attnpool", "layer4", "layer3", "layer2", "layer1"), 38_288_128),
        ("all", 38_316_896),
    ],
)
def test_itras_partly_locked_image_tower(opened, total):
    assert trainable_beside_logit_scale("RN50", image=opened) == total


def test_itras_text_tower_and_best_run():
    assert trainable_beside_logit_scale("RN50", text="all") == 63_690_240
    assert plan("itra-coco-rn50-partial")["parameters"]["trainable"] - 1 == 68_108_288


def test_itras_patterns_are_substrings():
    assert trainable_beside_logit_scale("ViT-B-16", image=["resblocks.0"]) == block(768) == 7_087_872
    assert trainable_beside_logit_scale("ViT-B-16", image=["resblocks.1"]) == 21_263_616


def test_itras_rsicd_recipe_trains_the_upper_parts_of_both_towers():
    image = 2 * 1024 + 6 * block(1024)
    text = 768 * 768 + 2 * 768 + 3 * block(768)
    assert plan("itra-rsicd-vit-l14-336")["parameters"]["trainable"] - 1 == image + text


def test_itras_layer_decay():
    spec = JobSpec.model_validate(
        {"model": "RN50/openai", "optim": {"layer_decay": 0.9}, "compat": ["itra-layer-decay"]}
    )
    module = build_structure(spec, num_classes=None).module
    by_id = {id(p): group["lr_scale"] for group in parameter_groups(module, spec=spec) for p in group["params"]}
    found = {name: round(by_id[id(parameter)], 12) for name, parameter in module.named_parameters()}
    image = {"attnpool.": 1, "layer4.": 0.81, "layer3.": 0.729, "layer2.": 0.6561, "layer1.": 0.59049}
    for name, scale in found.items():
        if name.startswith("visual."):
            part = name.removeprefix("visual.")
            assert scale == next((value for start, value in image.items() if part.startswith(start)), 0.531441)
        elif "resblocks." in name:
            assert scale == round(0.9 ** (12 - int(name.split(".")[2])), 12)
        else:
            assert scale == 1


@pytest.mark.parametrize(
    ("recipe", "steps_per_epoch", "total"),
    [
        ("itra-coco-rn50-baseline", 463, 4_630),
        ("itra-coco-rn50-improved", 148, 2_220),
        ("itra-coco-rn50-partial", -(-14_786 // 224), -(-14_786 // 224) * 15),
    ],
)
def test_itras_steps(recipe, steps_per_epoch, total):
    schedule = plan(recipe)["schedule"]
    assert (schedule["steps_per_epoch"], schedule["total_steps"]) == (steps_per_epoch, total)


def test_itras_learning_rate_follows_the_batch():
    peaks = {
        size: plan(f"itra-coco-rn50-{size}")["schedule"]["peak_lr"] for size in ("baseline", "improved", "partial")
    }
    assert peaks == {"baseline": 1e-5, "improved": 3.125e-5, "partial": 7e-5}


# FLYP


@pytest.mark.parametrize(
    ("recipe", "rows", "steps_per_epoch", "total"),
    [("flyp-imagenet", 102_493_360, 2_503, 25_030), ("flyp-iwildcam", 259_618, 508, 10_160)],
)
def test_flyps_rows_steps_and_warm_up(recipe, rows, steps_per_epoch, total):
    made = plan(recipe, (0, 499))
    schedule = made["schedule"]
    assert made["data"]["image_template_rows"] == rows
    assert (schedule["steps_per_epoch"], schedule["total_steps"]) == (steps_per_epoch, total)
    assert schedule["lr_at"] == {"0": 2e-8, "499": 1e-5}


# Invariants


def test_a_fresh_head_of_1000_classes_starts_at_the_loss_of_guessing():
    torch.manual_seed(0)
    head = torch.nn.Linear(768, 1000)
    init_fresh_head(head)
    loss = F.cross_entropy(head(torch.randn(64, 768)), torch.randint(1000, (64,)))
    assert loss.item() == pytest.approx(6.9078, abs=1e-3)


def test_ft_clips_average_has_a_half_life_of_3465_steps():
    decays = {RECIPES[recipe].build().optim.ema_decay for recipe in FT_CLIP}
    assert [int(math.log(0.5) / math.log(decay)) for decay in decays] == [3465]


def test_the_logit_scale_of_a_new_model_is_that_of_temperature_007():
    clip = load_clip(ModelSpec(name="attune-tiny-32"))
    assert round(clip.module.logit_scale.item(), 4) == 2.6593
