"""FT-CLIP, Dong et al. 2022 (https://arxiv.org/abs/2212.06138): supervised fine-tuning of the image tower.

Settings as in https://github.com/LightDXY/FT-CLIP, scripts and logs. Run one with:

    attune train --recipe ft-clip-vit-b16-224 --set data.train=imagenet/train --set data.validation=imagenet/val

All share AdamW with layer decay, a cosine to 1e-6 after a warm-up from zero, label smoothing, RandAugment, random
erasing and a moving average of the weights, which is what the published figures measure.
"""

from trainer.recipes.recipe import NO_RESULT, PublishedData, Recipe, train_command
from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    ClassificationObjective,
    DataSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ParallelSpec,
    RandAugment,
    ScheduleSpec,
)

_PAPER = "Dong et al. 2022, CLIP Itself is a Strong Fine-tuner, https://arxiv.org/abs/2212.06138"
_SOURCE = "https://github.com/LightDXY/FT-CLIP (scripts/*.sh, logs/*.log)"
_PATCH_EMBEDDING = ("trunk.conv1.*",)
_PRECISION_NOTE = "the source computes in fp16 without ZeRO; here fp32 weights under bf16 autocast, without ZeRO"
_SELECTION_NOTE = "the published figure is the best epoch of the moving average on the validation set, not the last"


def vit_b16_224() -> JobSpec:
    """ViT-B/16 at 224 pixels: 50 epochs at batch 2048, the patch embedding frozen."""
    return _ft_clip(
        ModelSpec(name="ViT-B-16/openai", freeze=_PATCH_EMBEDDING),
        OptimSpec(lr=6e-4, weight_decay=0.05, layer_decay=0.6, ema_decay=0.9998),
        epochs=50,
        warmup_epochs=10,
    )


def vit_b16_384() -> JobSpec:
    """The same at 384 pixels: a higher rate, and the patch embedding trained."""
    return _ft_clip(
        ModelSpec(name="ViT-B-16/openai", image_size=384),
        OptimSpec(lr=7e-4, weight_decay=0.05, layer_decay=0.6, ema_decay=0.9998),
        epochs=50,
        warmup_epochs=10,
    )


def vit_l14_224() -> JobSpec:
    """ViT-L/14 at 224 pixels: 30 epochs at batch 2048, the patch embedding frozen."""
    return _ft_clip(
        ModelSpec(name="ViT-L-14/openai", freeze=_PATCH_EMBEDDING),
        OptimSpec(lr=4e-4, weight_decay=0.05, layer_decay=0.65, ema_decay=0.9998),
        epochs=30,
        warmup_epochs=5,
    )


def vit_l14_336() -> JobSpec:
    """ViT-L/14 at 336 pixels, from the weights made for 224, at batch 1920."""
    return _ft_clip(
        ModelSpec(name="ViT-L-14/openai", image_size=336),
        OptimSpec(lr=6e-4, weight_decay=0.05, layer_decay=0.65, ema_decay=0.9998),
        epochs=30,
        warmup_epochs=5,
        global_size=1920,
    )


def ft_clip() -> JobSpec:
    """ViT-B/16 at 224 pixels for smaller data: batch 256 with the rate scaled to it, and a quicker average."""
    published = vit_b16_224()
    return published.model_copy(
        update={
            "model": ModelSpec(name="ViT-B-16/openai"),
            "batch": BatchSpec(global_size=256),
            "optim": published.optim.model_copy(update={"lr_batch": 2048, "ema_decay": 0.999}),
            "schedule": published.schedule.model_copy(update={"epochs": 30, "warmup_epochs": 5}),
            "parallel": ParallelSpec(),
        }
    )


def _ft_clip(
    model: ModelSpec, optim: OptimSpec, *, epochs: int, warmup_epochs: int, global_size: int = 2048
) -> JobSpec:
    return JobSpec(
        model=model,
        objective=ClassificationObjective(head="fresh", features="mean_patches", label_smoothing=0.1),
        data=DataSpec(
            augmentation=AugmentationSpec(
                crop_scale=(0.08, 1.0),
                horizontal_flip=0.5,
                rand_augment=RandAugment(magnitude=9, magnitude_std=0.5, num_ops=2, increasing=True),
                random_erasing=0.25,
            )
        ),
        batch=BatchSpec(global_size=global_size),
        optim=optim,
        schedule=ScheduleSpec(epochs=epochs, warmup_epochs=warmup_epochs, warmup_start="zero", min_lr=1e-6),
        parallel=ParallelSpec(zero_stage=0, precision="amp_bf16"),
    )


def _imagenet(devices: int) -> PublishedData:
    return PublishedData("ImageNet-1k", num_train=1_281_167, num_classes=1000, devices=devices)


def _command(name: str) -> str:
    return train_command(name, "data.train=imagenet/train", "data.validation=imagenet/val")


RECIPES = (
    Recipe(
        "ft-clip",
        ft_clip,
        "Supervised fine-tuning of the image tower with layer decay, strong augmentation and a moving average",
        _PAPER,
        _SOURCE,
        NO_RESULT,
        train_command("ft-clip", "data.train=photos/train", "data.validation=photos/val"),
        notes=(
            "batch 256, 30 epochs and an average of decay 0.999 (half-life 693 steps), for data smaller than ImageNet",
            "nothing is frozen, so that any model will do; FT-CLIP freezes the patch embedding at 224 pixels",
            "the learning rate follows batch.global_size linearly from 6e-4 at 2048",
        ),
    ),
    Recipe(
        "ft-clip-vit-b16-224",
        vit_b16_224,
        "FT-CLIP's ViT-B/16 at 224 pixels on ImageNet",
        _PAPER,
        _SOURCE,
        "ImageNet-1k top-1 85.656 (average, epoch 29 of 50; last epoch raw 84.3, average 84.7), "
        "8 x A100 40 GB, 6 h 02 min",
        _command("ft-clip-vit-b16-224"),
        _imagenet(8),
        (_PRECISION_NOTE, _SELECTION_NOTE),
    ),
    Recipe(
        "ft-clip-vit-b16-384",
        vit_b16_384,
        "FT-CLIP's ViT-B/16 at 384 pixels on ImageNet",
        _PAPER,
        _SOURCE,
        "ImageNet-1k top-1 86.644 (average, epoch 27 of 50, where the log ends at 32), 8 GPUs of a kind not named",
        _command("ft-clip-vit-b16-384"),
        _imagenet(8),
        (_PRECISION_NOTE, _SELECTION_NOTE, "the source accumulates 4 micro-batches of 64 on each of 8 GPUs"),
    ),
    Recipe(
        "ft-clip-vit-l14-224",
        vit_l14_224,
        "FT-CLIP's ViT-L/14 at 224 pixels on ImageNet",
        _PAPER,
        _SOURCE,
        "ImageNet-1k top-1 87.974 (average, epoch 19 of 30; last epoch raw 87.0, average 87.5), "
        "8 GPUs of a kind not named, 13 h 12 min",
        _command("ft-clip-vit-l14-224"),
        _imagenet(8),
        (_PRECISION_NOTE, _SELECTION_NOTE, "the source accumulates 4 micro-batches of 64 on each of 8 GPUs"),
    ),
    Recipe(
        "ft-clip-vit-l14-336",
        vit_l14_336,
        "FT-CLIP's ViT-L/14 at 336 pixels on ImageNet",
        _PAPER,
        _SOURCE,
        "ImageNet-1k top-1 88.328 (average, epoch 18 of 30; last epoch raw 87.1, average 87.7), "
        "24 GPUs of a kind not named, 19 h 51 min",
        _command("ft-clip-vit-l14-336"),
        _imagenet(24),
        (
            _PRECISION_NOTE,
            _SELECTION_NOTE,
            "batch 1920 (24 GPUs x 20 x 4 micro-batches), though the source calls it 2048",
            "starts from ViT-L/14's weights for 224 pixels, position embeddings interpolated, not from ViT-L/14@336px",
        ),
    ),
)
