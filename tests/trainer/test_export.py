"""Exports, as plain open_clip and timm load them."""

import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from trainer.export import (
    ExportError,
    clip_export_problem,
    export_classifier,
    export_clip,
)
from trainer.model_card import ModelCard
from trainer.models import ClassifierModel, clip_classifier, load_clip, load_timm_classifier
from trainer.resolve import resolve
from trainer.spec import ModelSpec
from trainer.stored_classifiers import read_classifier
from trainer.timm_layout import NoCounterpartError, to_timm

CARD = ModelCard(
    spec=resolve(recipe="flyp", spec={"model": "attune-tiny-32", "data": {"train": "photos"}}),
    metrics={"validation/top1": 0.875},
    class_names=("cat", "dog"),
    templates=("a photo of a {}.",),
    data_hash="0" * 64,
    num_samples=12,
)


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return load_clip(ModelSpec(name="attune-tiny-32"))


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    sizes = [(40, 32), (31, 57), (32, 32)]
    return [Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]


def disturb(module):
    """Give every vector a value of its own, so that a forgotten or swapped bias or norm shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + 0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def trained_classifier(model, class_names=("cat", "dog", "fox")):
    classifier = (
        load_timm_classifier(ModelSpec(name=model), class_names=class_names)
        if model.startswith("timm/")
        else clip_classifier(load_clip(ModelSpec(name=model)), class_names=class_names)
    )
    disturb(classifier.module)
    torch.nn.init.normal_(classifier.module.head.weight)
    classifier.module.eval()
    return classifier


def random_images(classifier, count=2):
    size = classifier.preprocess.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_plain_open_clip_gives_equal_features(clip, pictures, tmp_path):
    disturb(clip.module)
    export_clip(clip, tmp_path / "export", card=CARD)
    name = f"local-dir:{tmp_path / 'export'}"
    loaded, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)

    texts = ["a photo of a cat.", "a very " + "long " * 100 + "text"]
    assert torch.equal(tokenizer(texts), clip.tokenize(texts))
    assert tokenizer(texts).shape == (2, 16)
    clip.module.eval()
    assert torch.equal(loaded.eval().encode_text(tokenizer(texts)), clip.module.encode_text(clip.tokenize(texts)))
    images = torch.stack([preprocess(picture) for picture in pictures])
    assert images.shape == (3, 3, 32, 32)
    assert torch.equal(loaded.encode_image(images), clip.module.encode_image(images))
    assert loaded.logit_scale.shape == ()
    assert loaded.logit_scale.item() == clip.module.logit_scale.item()


def test_preprocessing_is_the_models_own(clip, tmp_path):
    odd = replace(
        clip.preprocess, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear", resize_mode="squash"
    )
    export_clip(replace(clip, preprocess=odd), tmp_path / "export", card=CARD)
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    config = open_clip.get_model_preprocess_cfg(loaded)
    assert tuple(config["mean"]) == odd.mean
    assert tuple(config["std"]) == odd.std
    assert (config["interpolation"], config["resize_mode"]) == ("bilinear", "squash")
    assert config["size"] == (32, 32)


def test_attune_loads_its_own_export(clip, tmp_path):
    export_clip(clip, tmp_path / "export", card=CARD)
    again = load_clip(ModelSpec(name=f"local-dir:{tmp_path / 'export'}"))
    assert again.preprocess == clip.preprocess
    for name, tensor in clip.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name


def test_given_weights_take_the_place_of_the_modules(clip, tmp_path):
    state = {name: tensor + 1 for name, tensor in clip.module.state_dict().items()}
    export_clip(clip, tmp_path / "export", state_dict=state, card=CARD)
    stored = load_file(tmp_path / "export" / "open_clip_model.safetensors")
    assert torch.equal(stored["visual.conv1.weight"], state["visual.conv1.weight"])


def test_a_custom_text_model_in_open_clips_layout(clip, tmp_path):
    config = {**clip.config, "custom_text": True}
    module = open_clip.CustomTextCLIP(**clip.config, nonscalar_logit_scale=True)
    export_clip(replace(clip, module=module, config=config), tmp_path / "export", card=CARD)
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    assert isinstance(loaded, open_clip.CustomTextCLIP)
    assert torch.equal(loaded.text.token_embedding.weight, module.text.token_embedding.weight)


def test_another_image_size_is_part_of_the_export(tmp_path):
    clip = load_clip(ModelSpec(name="attune-tiny-32", image_size=48))
    export_clip(clip, tmp_path / "export", card=CARD)
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    assert loaded.visual.image_size == (48, 48)
    assert torch.equal(loaded.visual.positional_embedding, clip.module.visual.positional_embedding)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_temperature(clip, dtype, tmp_path):
    export_clip(clip, tmp_path / "export", dtype=dtype, card=CARD)
    stored = load_file(tmp_path / "export" / "open_clip_model.safetensors")
    assert {t.dtype for name, t in stored.items() if name != "logit_scale"} == {dtype}
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    assert loaded.logit_scale.item() == clip.module.logit_scale.item()


def test_overflow_in_half_precision_is_refused_and_leaves_nothing(clip, tmp_path):
    with torch.no_grad():
        clip.module.visual.conv1.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ExportError, match=r"visual\.conv1\.weight holds values beyond the range of torch\.float16"):
        export_clip(clip, tmp_path / "export", dtype=torch.float16, card=CARD)
    assert not list(tmp_path.iterdir())


def test_shared_tensors_are_stored_twice(clip, tmp_path):
    shared = torch.randn(96)
    state = clip.module.state_dict()
    state["ln_final.weight"] = state["ln_final.bias"] = shared
    export_clip(clip, tmp_path / "export", state_dict=state, card=CARD)
    stored = load_file(tmp_path / "export" / "open_clip_model.safetensors")
    assert torch.equal(stored["ln_final.weight"], shared)
    assert torch.equal(stored["ln_final.bias"], shared)


def test_an_older_export_is_replaced_whole(clip, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "stale.bin").touch()
    export_clip(clip, folder, card=CARD)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "attune.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_failure_leaves_the_older_export(clip, tmp_path, monkeypatch):
    export_clip(clip, tmp_path / "export", card=CARD)

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.export.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_clip(clip, tmp_path / "export", card=CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")


def test_the_description_says_all_that_attune_needs(clip, tmp_path):
    export_clip(clip, tmp_path / "export", card=CARD)
    description = json.loads((tmp_path / "export" / "attune.json").read_text())
    assert description["task"] == "clip"
    assert description["base_model"] == "attune-tiny-32"
    assert description["class_names"] == ["cat", "dog"]
    assert description["metrics"] == {"validation/top1": 0.875}
    assert description["preprocess"]["exif"] == "ignore"
    assert description["spec"] == CARD.spec.model_dump(mode="json")


def test_the_model_card_reads_well(clip, tmp_path):
    export_clip(clip, tmp_path / "export", card=CARD)
    text = (tmp_path / "export" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: open_clip\n")
    for said in (
        'open_clip.create_model_and_transforms("local-dir:FOLDER")',
        "`photos` (image_folder)",
        "12 training images",
        "2 classes: cat, dog.",
        "| validation/top1 | 87.50 % |",
        "| recipe | flyp |",
        "| objective | class_prompts |",
    ):
        assert said in text


def test_a_model_that_open_clip_could_not_rebuild_is_refused(clip, tmp_path):
    config = json.loads(json.dumps(clip.config))
    config["vision_cfg"]["layers"] = 3
    broken = replace(clip, config=config)
    assert "cannot rebuild" in clip_export_problem(broken)
    assert clip_export_problem(clip) is None
    with pytest.raises(ExportError, match="cannot rebuild this model"):
        export_clip(broken, tmp_path / "export", card=CARD)


@pytest.mark.parametrize(
    "name",
    [
        "attune-tiny-32",
        "ViT-M-16-alt",  # with layer scale
        "timm/vit_tiny_patch16_224",
        "timm/resnet18",
        "timm/convnext_atto",
        "timm/mobilenetv3_small_100",  # with layers between pooling and head
        pytest.param("ViT-B-32-quickgelu", marks=pytest.mark.slow),
        pytest.param("RN50", marks=pytest.mark.slow),  # projects inside its attention pooling
        pytest.param("convnext_tiny", marks=pytest.mark.slow),  # a timm tower with open_clip's linear projection
        pytest.param("EVA02-B-16", marks=pytest.mark.slow),  # a timm tower whose classifier is the projection
    ],
)
@torch.no_grad()
def test_plain_timm_gives_equal_logits(name, tmp_path):
    torch.manual_seed(0)
    classifier = trained_classifier(name)
    export_classifier(classifier, tmp_path / "export", card=CARD)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = random_images(classifier)
    expected = classifier.module(images)
    # folding a projection into the head changes the order of sums, and timm's fused layers may too
    torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1
    torch.testing.assert_close(
        read_classifier(tmp_path / "export").module.eval()(images), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "vision",
    [
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},  # as CLIPA
        {"pool_type": "tok", "final_ln_after_pool": True},
        {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
        {"mlp_ratio": 2.6, "patch_size": 16},
        {"pos_embed_type": "sin_cos_2d"},
    ],
)
@torch.no_grad()
def test_variants_of_the_vision_transformer(clip, vision, tmp_path):
    torch.manual_seed(0)
    config = {**clip.config, "vision_cfg": {**clip.config["vision_cfg"], **vision}}
    variant = replace(clip, config=config, module=open_clip.CLIP(**config, nonscalar_logit_scale=True))
    classifier = clip_classifier(variant, class_names=("cat", "dog"))
    disturb(classifier.module)
    export_classifier(classifier, tmp_path / "export", card=CARD)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = random_images(classifier)
    torch.testing.assert_close(loaded(images), classifier.module.eval()(images), rtol=1e-4, atol=1e-4)


def test_quick_gelu_has_its_own_architecture(tmp_path):
    clip = load_clip(ModelSpec(name="attune-tiny-32"))
    config = {**clip.config, "quick_gelu": True}
    module = open_clip.CLIP(**config, nonscalar_logit_scale=True)
    classifier = clip_classifier(replace(clip, config=config, module=module), class_names=("cat", "dog"))
    disturb(classifier.module)
    export_classifier(classifier, tmp_path / "export", card=CARD)
    assert "quickgelu" in json.loads((tmp_path / "export" / "config.json").read_text())["architecture"]
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = random_images(classifier)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), classifier.module.eval()(images), rtol=1e-5, atol=1e-5)


def test_timm_preprocesses_as_open_clip_did(clip, pictures, tmp_path):
    classifier = clip_classifier(clip, class_names=("cat", "dog"))
    export_classifier(classifier, tmp_path / "export", card=CARD)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded))
    reference = open_clip.image_transform(32, is_train=False)
    for picture in pictures:
        assert torch.equal(transform(picture), reference(picture))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_timm_crops_an_export_as_it_crops_its_own_model(name, tmp_path):
    expected = timm.data.resolve_model_data_config(timm.create_model(name))
    torch.manual_seed(0)
    classifier = load_timm_classifier(ModelSpec(name=f"timm/{name}"), class_names=("cat", "dog"))
    assert classifier.preprocess.crop_pct == expected["crop_pct"]
    export_classifier(classifier, tmp_path / "export", card=CARD)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    found = timm.data.resolve_model_data_config(loaded)
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()} == lists
    assert read_classifier(tmp_path / "export").preprocess == classifier.preprocess


def test_a_classifier_comes_back_with_all_that_belongs_to_it(tmp_path):
    classifier = trained_classifier("attune-tiny-32")
    exif = replace(classifier, preprocess=replace(classifier.preprocess, exif="apply"))
    export_classifier(exif, tmp_path / "first", card=CARD)
    again = read_classifier(tmp_path / "first")
    assert again.class_names == ("cat", "dog", "fox")
    assert again.preprocess == exif.preprocess
    export_classifier(again, tmp_path / "second", card=CARD)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool"),
        ({"vision_cfg": {"qk_norm": True}}, "qk_norm"),
        ({"vision_cfg": {"norm_kwargs": {"eps": 1e-3}}}, "eps 1e-5 or 1e-6"),
        ({"vision_cfg": {"layers": [1, 1, 1, 1], "width": 64}}, r"no CLIP ResNet of layers \[1, 1, 1, 1\]"),
        ({"vision_cfg": {"timm_model_name": "convnext_tiny", "timm_proj": "mlp"}}, "no MLP"),
        ({"vision_cfg": {"timm_model_name": "resnet18", "timm_pool": "abs_attn"}}, "abs_attn"),
        ({"architecture": "deit_tiny_distilled_patch16_224", "model_args": {}}, "does not end in one linear layer"),
    ],
)
def test_towers_without_a_counterpart_say_what_timm_lacks(config, says):
    model = ClassifierModel(None, config, None, ("cat", "dog"), "a model", "open_clip")
    with pytest.raises(NoCounterpartError, match=says):
        to_timm(model, {})


def test_leftovers_of_a_killed_export_are_cleared_and_its_last_copy_returns(tmp_path):
    clip = load_clip(ModelSpec(name="attune-tiny-32"))
    card = ModelCard(spec=None, metrics={})
    for name in (".export.1.partial", ".export.1.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note").write_text(name)
    export_clip(clip, tmp_path / "export", card=card)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
    assert not (tmp_path / "export" / "note").exists()
