"""A job's model: as a structure against published counts, and with weights."""

import json

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from dali_pipelines.loader import EvalLoader
from trainer.errors import UnusableSpecError
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.model_setup import build_model, build_structure
from trainer.models import load_clip
from trainer.spec import JobSpec
from trainer.towers import image_parameters, text_parameters


def structure(spec, num_classes=None):
    return build_structure(JobSpec.model_validate(spec), num_classes=num_classes)


def count(parameters, *, trained=False):
    return sum(p.numel() for p in parameters if p.requires_grad or not trained)


def ft_clip(name, **model):
    objective = {"name": "classification", "head": "fresh", "features": "mean_patches"}
    return {"model": {"name": name, **model}, "objective": objective}


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("ViT-B-16/openai", {"image": {"lock_patterns": "conv1"}}, 85_978_600),
        ("ViT-B-16/openai", {"image_size": 384}, 86_860_264),
        ("ViT-L-14/openai", {"freeze": "*conv1*"}, 303_602_664),
        ("ViT-L-14/openai", {"image_size": 336}, 304_532_456),
    ],
)
def test_ft_clip_trains_what_its_logs_say(name, model, expected):
    module = structure(ft_clip(name, **model), num_classes=1000).module
    assert count(module.parameters(), trained=True) == expected
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vit_base_patch32_clip_384", 384, 88_297_960),
        ("vit_base_patch32_clip_448", 448, 88_337_896),
        ("vit_base_patch16_clip_384", 384, 86_860_264),
        ("vit_large_patch14_clip_224", 224, 304_204_776),
        ("vit_large_patch14_clip_336", 336, 304_532_456),
    ],
)
def test_timm_models_count_their_position_embeddings(name, size, expected):
    spec = {"model": {"name": f"timm/{name}"}, "objective": {"name": "classification", "head": "fresh"}}
    model = structure(spec, num_classes=1000)
    assert count(model.module.parameters()) == expected
    assert model.preprocess.image_size == size


@pytest.mark.parametrize(
    ("name", "total", "image"),
    [
        ("RN50", 102_007_137, 38_316_896),
        ("ViT-B-32", 151_277_313, 87_849_216),
        ("ViT-B-16", 149_620_737, 86_192_640),
        ("ViT-L-14", 427_616_513, 303_966_208),
        ("ViT-L-14-336", 427_944_193, 304_293_888),
    ],
)
def test_whole_models_count_as_published(name, total, image):
    module = structure({"model": f"{name}/openai"}).module
    assert count(module.parameters()) == total
    assert count(image_parameters(module).values()) == image
    assert count(text_parameters(module).values()) == total - image - 1  # the logit scale belongs to no tower


def locked(image=(), text=(), **both):
    return {
        "model": {
            "name": "RN50/openai",
            "image": {"lock": True, "lock_patterns": list(image), **both},
            "text": {"lock": True, "lock_patterns": list(text), **both},
        }
    }


BLOCKS = [f"!resblocks.{n}." for n in range(11, -1, -1)]
STAGES = ["!attnpool", "!layer4", "!layer3", "!layer2", "!layer1"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (locked(head={"layers": 1}), 2_099_200),
        (locked(head={"layers": 3}), 16_787_456),
        (locked(text=["!text_projection", "!ln_final"]), 525_312),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS[:1]]), 3_677_696),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS[:2]]), 6_830_080),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS[:4]]), 13_134_848),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS[:6]]), 19_439_616),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS[:8]]), 25_744_384),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS[:10]]), 32_049_152),
        (locked(text=["!text_projection", "!ln_final", *BLOCKS]), 38_353_920),
        ({"model": {"name": "RN50/openai", "image": {"lock": True}}}, 63_690_240),
        (locked(image=STAGES[:1]), 14_789_632),
        (locked(image=STAGES[:2]), 29_754_368),
        (locked(image=STAGES[:3]), 36_852_736),
        (locked(image=STAGES[:4]), 38_072_320),
        (locked(image=STAGES[:5]), 38_288_128),
        ({"model": {"name": "RN50/openai", "text": {"lock": True}}}, 38_316_896),
        (
            {
                "model": {
                    "name": "RN50/openai",
                    "image": {"lock": True, "lock_patterns": ["!attnpool", "!layer4"]},
                    "text": {"lock_patterns": ["positional_embedding", "token_embedding"]},
                }
            },
            68_108_288,
        ),
    ],
)
def test_itra_trains_what_its_table_says_and_the_logit_scale(spec, expected):
    module = structure(spec).module
    assert module.logit_scale.requires_grad
    assert count(module.parameters(), trained=True) == expected + 1


@pytest.mark.parametrize(("pattern", "expected"), [("!resblocks.0", 7_087_872), ("!resblocks.1", 21_263_616)])
def test_a_pattern_is_a_substring_and_opens_longer_numbers_too(pattern, expected):
    towers = {"image": {"lock": True, "lock_patterns": pattern}, "text": {"lock": True}}
    module = structure({"model": {"name": "ViT-B-16/openai", **towers}}).module
    assert count(module.parameters(), trained=True) == expected + 1


EVERYTHING = [
    {"model": "attune-tiny-32"},
    {"model": {"name": "attune-tiny-32", "image_size": 48, "text": {"context_length": 12}}},
    {
        "model": {
            "name": "attune-tiny-32",
            "image": {"lock": True, "head": {"layers": 2, "output_size": 24}, "drop_path": 0.0},
            "text": {"prompt": {"length": 3}, "head": {"output_size": 24}, "adapter": {"method": "lora"}},
        }
    },
    {"model": {"name": "attune-tiny-32", "image": {"adapter": {"method": "dora"}, "drop_path": 0.1}}},
    {"model": {"name": "attune-tiny-32", "image": {"tower": "timm/resnet18"}}},
    ft_clip("attune-tiny-32", freeze=["*conv1*"]),
    {"model": "attune-tiny-32", "objective": {"name": "classification", "features": "projected"}},
    {"model": "attune-tiny-32", "objective": {"name": "classification", "head": "fresh"}},
    ft_clip("timm/vit_tiny_patch16_224"),
]


@pytest.mark.parametrize("spec", EVERYTHING, ids=range(len(EVERYTHING)))
def test_a_structure_has_the_names_shapes_and_locks_of_the_model(spec, digits_manifest):
    spec = JobSpec.model_validate(spec)
    built = build_model(spec, train=digits_manifest)
    planned = build_structure(spec, num_classes=len(digits_manifest.class_names))

    def facts(model):
        return {n: (tuple(p.shape), p.requires_grad) for n, p in model.module.named_parameters()}

    assert facts(planned) == facts(built)
    assert planned.config == built.config
    assert planned.preprocess == built.preprocess


def test_a_projected_zero_shot_head_gives_the_zero_shot_logits(digits_manifest, digit_images):
    objective = {"name": "classification", "features": "projected", "head": "zero_shot"}
    torch.manual_seed(0)
    spec = JobSpec.model_validate({"model": "attune-tiny-32", "objective": objective})
    classifier = build_model(spec, train=digits_manifest).module.eval()
    torch.manual_seed(0)
    clip = load_clip(spec.model)
    module = clip.module.eval()
    with torch.no_grad():
        weights = zero_shot_weights(
            module, clip.tokenize, digits_manifest.class_names, spec.data.templates, device=torch.device("cpu")
        )
        expected = module.logit_scale.exp() * (F.normalize(module.encode_image(digit_images), dim=-1) @ weights)
        found = classifier(digit_images)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_fresh_head_on_mean_patches_sees_the_mean_of_fresh_norms(digits_manifest, digit_images):
    spec = JobSpec.model_validate(ft_clip("attune-tiny-32"))
    torch.manual_seed(0)
    classifier = build_model(spec, train=digits_manifest).module.eval()
    trunk, head = classifier.trunk, classifier.head
    with torch.no_grad():
        tokens = trunk.transformer(trunk._embeds(digit_images))
        expected = F.linear(F.layer_norm(tokens[:, 1:], (96,)).mean(dim=1), head.weight, head.bias)
        torch.testing.assert_close(classifier(digit_images), expected, rtol=1e-5, atol=1e-6)
    assert trunk.proj is None
    assert 0 < head.bias.abs().max() < 1e-3  # torch's own first biases, scaled down like the weights
    assert head.weight.std().item() == pytest.approx(0.02e-3, rel=0.15)


def test_a_probe_fits_the_training_images_before_the_first_step(digits_manifest):
    objective = {"name": "classification", "head": "probe", "features": "projected", "probe": {"strengths": [100.0]}}
    torch.manual_seed(0)
    spec = JobSpec.model_validate({"model": "attune-tiny-32", "objective": objective})
    model = build_model(spec, train=digits_manifest)
    loader = EvalLoader(digits_manifest, preprocess=model.preprocess, batch_size=60)
    with torch.no_grad():
        right = [model.module.eval()(batch.images).argmax(-1) == batch.labels for batch in loader]
    assert torch.cat(right).float().mean() > 0.5  # of ten classes, from random features


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            {"image": {"lock": True, "lock_patterns": ["!resblock9"]}},
            r"model\.image\.lock_patterns: '!resblock9'",
        ),
        ({"text": {"lock_patterns": ["visual"]}}, r"model\.text\.lock_patterns: 'visual' matches no parameter"),
        ({"freeze": ["visual.conv7*"]}, r"model\.freeze: 'visual\.conv7\*' matches no parameter"),
        ({"freeze": ["*"]}, "leave nothing to train"),
        (
            {"image": {"adapter": {"targets": ["*nothing*"]}}},
            r"model\.image\.adapter\.targets: '\*nothing\*'",
        ),
        ({"image": {"tower": "timm/resnet18", "drop_path": 0.1}}, r"model\.image\.drop_path 0\.1: ResNet has no"),
    ],
)
def test_what_only_the_model_shows_is_refused(model, says):
    with pytest.raises(UnusableSpecError, match=says):
        structure({"model": {"name": "attune-tiny-32", **model}})


def test_a_hub_model_without_a_network_says_where_its_files_could_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ATTUNE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnusableSpecError, match=r"put the repository's files into .*/nobody/nothing/"):
        structure({"model": "hf-hub:nobody/nothing"})


def test_a_folder_needs_its_configuration_only(tmp_path):
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2}}
    config["text_cfg"] = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}})
    )
    model = structure({"model": f"local-dir:{tmp_path}"})
    assert model.config == config
    assert model.preprocess.mean == (0.1, 0.2, 0.3)
    assert (model.preprocess.image_size, model.preprocess.resize_mode) == (32, "squash")
