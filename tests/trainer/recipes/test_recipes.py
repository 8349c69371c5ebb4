"""Recipes against the tables of their sources, typed here a second time."""

from __future__ import annotations

import re
import shlex

import pytest

from trainer.recipes import RECIPES
from trainer.resolve import SpecError, resolve
from trainer.spec import JobSpec, RandAugment

NAMES = {
    *("ft-clip", "flyp", "wise-ft", "lp-ft", "contrastive", "linear-probe", "classification"),
    *("ft-clip-vit-b16-224", "ft-clip-vit-b16-384", "ft-clip-vit-l14-224", "ft-clip-vit-l14-336"),
    *("itra-coco-rn50-baseline", "itra-coco-rn50-improved", "itra-coco-rn50-partial", "itra-rsicd-vit-l14-336"),
    *("flyp-imagenet", "flyp-iwildcam", "flyp-fmow", "flyp-caltech101", "flyp-cars"),
    *("flyp-few-shot-sst2", "flyp-few-shot-pcam", "wise-ft-imagenet", "lp-ft-imagenet"),
}


def spec_of(name: str) -> JobSpec:
    return resolve(recipe=name, runnable=False)


def peak_lr(spec: JobSpec) -> float:
    return spec.optim.lr * (spec.batch.global_size / spec.optim.lr_batch if spec.optim.lr_batch else 1)


def test_the_recipes_are_those_that_the_sources_name() -> None:
    assert set(RECIPES) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_recipes_run_with_a_model_and_data_of_ones_own(name: str) -> None:
    data = "captions.csv" if name.startswith(("itra", "contrastive")) else "photos"
    needed = ["data.validation=held-out"] if "few-shot" in name else []
    spec = resolve(recipe=name, overrides=["model.name=ViT-B-32/openai", f"data.train={data}", *needed])

    assert spec.model.name == "ViT-B-32/openai"
    assert spec.data.train is not None


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_command_of_a_recipe_is_a_whole_job(name: str) -> None:
    words = shlex.split(RECIPES[name].command)
    changes = [after for before, after in zip(words, words[1:], strict=False) if before == "--set"]
    spec = resolve(recipe=name, overrides=changes)

    assert spec.data.train is not None
    assert (spec.data.validation is not None) == (name != "itra-rsicd-vit-l14-336")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_recipes_say_where_they_come_from_and_what_they_reach(name: str) -> None:
    recipe = RECIPES[name]

    assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{5}", recipe.paper)
    assert "https://github.com/" in recipe.source
    assert recipe.published
    assert recipe.command.startswith(f"attune train --recipe {name} --set")
    if recipe.dataset is not None:
        assert re.search(r"\d x |GPUs|hardware not stated", recipe.published)


@pytest.mark.parametrize(
    ("name", "lr", "layer_decay", "batch", "epochs", "warmup_epochs", "frozen", "size", "devices"),
    [
        ("ft-clip-vit-b16-224", 6e-4, 0.6, 2048, 50, 10, True, None, 8),
        ("ft-clip-vit-b16-384", 7e-4, 0.6, 2048, 50, 10, False, 384, 8),
        ("ft-clip-vit-l14-224", 4e-4, 0.65, 2048, 30, 5, True, None, 8),
        ("ft-clip-vit-l14-336", 6e-4, 0.65, 1920, 30, 5, False, 336, 24),
    ],
)
def test_ft_clip_as_in_its_scripts(name, lr, layer_decay, batch, epochs, warmup_epochs, frozen, size, devices) -> None:
    spec = spec_of(name)

    assert (spec.optim.lr, spec.optim.layer_decay, spec.batch.global_size) == (lr, layer_decay, batch)
    assert (spec.schedule.epochs, spec.schedule.warmup_epochs) == (epochs, warmup_epochs)
    assert spec.model.freeze == (("trunk.conv1.*",) if frozen else ())
    assert spec.model.image_size == size
    assert RECIPES[name].dataset.devices == devices
    assert batch % devices == 0


@pytest.mark.parametrize("name", sorted(name for name in NAMES if name.startswith("ft-clip")))
def test_all_ft_clip_recipes_share_the_method(name: str) -> None:
    spec = spec_of(name)
    augmentation, optim, schedule = spec.data.augmentation, spec.optim, spec.schedule

    assert (spec.objective.head, spec.objective.features) == ("fresh", "mean_patches")
    assert spec.objective.label_smoothing == 0.1
    assert augmentation.rand_augment == RandAugment(magnitude=9, magnitude_std=0.5, num_ops=2, increasing=True)
    assert (augmentation.random_erasing, augmentation.horizontal_flip) == (0.25, 0.5)
    assert augmentation.crop_scale == (0.08, 1.0)
    assert (augmentation.color_jitter, augmentation.mixup, augmentation.cutmix) == (None, 0, 0)
    assert (optim.name, optim.betas, optim.eps, optim.weight_decay) == ("adamw", (0.9, 0.999), 1e-8, 0.05)
    assert optim.clip_grad_norm is None
    assert not optim.decay_vectors
    assert (schedule.warmup_start, schedule.min_lr, schedule.kind) == ("zero", 1e-6, "cosine")
    assert optim.ema_decay == (0.999 if name == "ft-clip" else 0.9998)


def test_ft_clip_at_336_starts_from_the_weights_for_224() -> None:
    assert spec_of("ft-clip-vit-l14-336").model.name == "ViT-L-14/openai"


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "lr", "weight_decay", "model"),
    [
        ("itra-coco-rn50-baseline", 256, 10, 1e-5, 0.5, "RN50/openai"),
        ("itra-coco-rn50-improved", 800, 15, 3.125e-5, 1.0, "RN50/openai"),
        ("itra-coco-rn50-partial", 1792, 15, 7e-5, 1.0, "RN50/openai"),
        ("itra-rsicd-vit-l14-336", 128, 30, 1e-6, 0.5, "ViT-L-14-336/openai"),
    ],
)
def test_itra_as_in_its_commands(name, batch, epochs, lr, weight_decay, model) -> None:
    spec = spec_of(name)

    assert (spec.model.name, spec.batch.global_size, spec.schedule.epochs) == (model, batch, epochs)
    assert peak_lr(spec) == pytest.approx(lr, rel=1e-12)
    assert (spec.optim.weight_decay, spec.optim.clip_grad_norm) == (weight_decay, 5.0)
    assert (spec.schedule.warmup_steps, spec.schedule.min_lr) == (100, 0.0)
    assert spec.data.epoch_end == "continue"


@pytest.mark.parametrize(
    ("global_size", "lr"), [(800, 3.125e-5), (512, 2e-5), (128, 5e-6), (64, 2.5e-6), (32, 1.25e-6)]
)
def test_itras_rate_follows_the_batch(global_size: int, lr: float) -> None:
    spec = resolve(recipe="itra-coco-rn50-baseline", overrides=[f"batch.global_size={global_size}"], runnable=False)

    assert peak_lr(spec) == pytest.approx(lr, rel=1e-12)


def test_itras_partial_locks_are_those_of_its_commands() -> None:
    partial, rsicd = spec_of("itra-coco-rn50-partial").model, spec_of("itra-rsicd-vit-l14-336").model

    assert (partial.image.lock, ",".join(partial.image.lock_patterns)) == (True, "!attnpool,!layer4")
    assert (partial.text.lock, ",".join(partial.text.lock_patterns)) == (False, "positional_embedding,token_embedding")
    assert rsicd.image.lock
    assert ",".join(rsicd.image.lock_patterns) == (
        "!ln_post,!resblocks.23,!resblocks.22,!resblocks.21,!resblocks.20,!resblocks.19,!resblocks.18"
    )
    assert rsicd.text.lock
    assert ",".join(rsicd.text.lock_patterns) == ("!text_projection,!ln_final,!resblocks.11,!resblocks.10,!resblocks.9")
    decay = spec_of("itra-rsicd-vit-l14-336").optim
    assert (decay.layer_decay, decay.layer_decay_text) == (0.9, 0.9)


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay", "batch", "epochs", "warmup", "templates"),
    [
        ("flyp-imagenet", 1e-5, 0.1, 512, 10, 500, "imagenet"),
        ("flyp-iwildcam", 1e-5, 0.2, 256, 20, 500, "flyp-iwildcam"),
        ("flyp-fmow", 1e-5, 0.2, 256, 20, 500, "flyp-fmow"),
        ("flyp-caltech101", 1e-5, 0.0, 256, 100, 500, "flyp-caltech101"),
        ("flyp-cars", 1e-5, 0.0, 256, 100, 500, "flyp-cars"),
        ("flyp-few-shot-sst2", 1e-5, 0.2, 32, 20, 0, "flyp-sst2"),
        ("flyp-few-shot-pcam", 1e-6, 0.0, 32, 20, 0, "flyp-pcam"),
    ],
)
def test_flyp_as_in_its_readme(name, lr, weight_decay, batch, epochs, warmup, templates) -> None:
    spec = spec_of(name)

    assert (spec.optim.lr, spec.optim.weight_decay, spec.batch.global_size) == (lr, weight_decay, batch)
    assert (spec.schedule.epochs, spec.schedule.warmup_steps) == (epochs, warmup)
    assert spec.data.templates == (templates,)
    assert spec.optim.decay_vectors
    assert spec.optim.clip_grad_norm is None
    assert spec.objective.max_logit_scale is None
    assert spec.objective.same_class == "negative"
    assert (spec.data.augmentation.crop_scale, spec.data.augmentation.horizontal_flip) == ((0.9, 1.0), 0.0)
    assert (spec.parallel.precision, spec.data.epoch_end) == ("fp32", "continue")
    assert spec.model.name == "ViT-B-16/openai"


@pytest.mark.parametrize("name", ["flyp-few-shot-sst2", "flyp-few-shot-pcam"])
def test_few_shots_are_one_full_batch_an_epoch_chosen_on_validation_loss(name: str) -> None:
    spec, data = spec_of(name), RECIPES[name].dataset

    assert spec.data.shots * data.num_classes == spec.batch.global_size
    assert spec.checkpoint.at_start
    assert spec.checkpoint.metric == "validation/cross_entropy"


def test_few_shots_ask_for_validation_data_once_there_are_training_data() -> None:
    with pytest.raises(SpecError, match="checkpoint.metric"):
        resolve(recipe="flyp-few-shot-sst2", overrides=["data.train=photos"])


@pytest.mark.parametrize("name", ["wise-ft", "wise-ft-imagenet"])
def test_wise_ft_as_in_its_readme(name: str) -> None:
    spec = spec_of(name)

    assert (spec.optim.lr, spec.optim.weight_decay, spec.optim.clip_grad_norm) == (3e-5, 0.1, 1.0)
    assert (spec.batch.global_size, spec.schedule.epochs, spec.schedule.warmup_steps) == (512, 10, 500)
    assert (spec.objective.head, spec.objective.features) == ("zero_shot", "projected")
    assert spec.objective.label_smoothing == 0
    assert spec.export.wise_ft.alpha == 0.5
    assert spec.export.wise_ft.alphas == tuple(n / 10 for n in range(11))


def test_lp_ft_as_in_its_configuration() -> None:
    spec = spec_of("lp-ft-imagenet")

    assert (spec.optim.name, spec.optim.momentum, spec.optim.weight_decay) == ("sgd", 0.9, 0.0)
    assert (spec.optim.lr, spec.batch.global_size, spec.schedule.epochs) == (1e-5, 128, 10)
    assert (spec.schedule.update, spec.schedule.kind, spec.schedule.min_lr) == ("epoch", "cosine", 0.0)
    assert spec.objective.head == "probe"
    assert (spec.objective.probe.strengths, spec.objective.probe.max_iterations) == (None, 200)
    assert spec_of("lp-ft").batch.global_size == 64


def test_the_linear_probe_trains_its_head_alone_on_plain_images() -> None:
    spec = spec_of("linear-probe")

    assert spec.model.freeze == ("*", "!head.*")
    assert spec.data.augmentation.crop_scale == (1.0, 1.0)
    assert (spec.optim.lr, spec.schedule.epochs) == (0.1, 5)
