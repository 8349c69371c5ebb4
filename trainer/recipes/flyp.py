"""FLYP, Goyal et al. 2023 (https://arxiv.org/abs/2212.00638): contrast images with prompts of their class.

Settings as in https://github.com/locuslab/FLYP. Run one with:

    attune train --recipe flyp-imagenet --set data.train=imagenet/train --set data.validation=imagenet/val

All share AdamW with decay on all parameters, no clipping, crops of 90 to 100 % of the area and no flip.
"""

from trainer.recipes.recipe import NO_RESULT, PublishedData, Recipe, train_command
from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    CheckpointSpec,
    ClassPromptsObjective,
    DataSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ParallelSpec,
    ScheduleSpec,
)

_PAPER = "Goyal et al., CVPR 2023, Finetune like you pretrain, https://arxiv.org/abs/2212.00638"
_SOURCE = "https://github.com/locuslab/FLYP (README.md, src/)"
_ROWS_NOTE = (
    "the source writes a table with a row an image and template and shuffles it; here each visit of an image draws one "
    "template, which is the same draw but for an image's chance to come twice in a batch"
)
_LARGE_NOTE = "the source's ViT-B-16 and ViT-L-14 (with dashes) are laion400m_e31's weights, its ViT-B/16 OpenAI's"
_FEW_SHOT_RESULT = (
    "on three few-shot benchmarks up to 4.6 points above standard fine-tuning and 4.4 above the best other method (the "
    "paper's abstract; mean and deviation of 50 draws are in its table of few-shot learning); hardware not stated"
)
_SHOTS_NOTES = (
    "for k shots of C classes set data.shots=k and batch.global_size=k*C: the published runs take one full-batch step "
    "an epoch; k is 4, 16 or 32",
    "the checkpoint is chosen on data.validation, of which the source takes k images a class (limit_per_class=k); "
    "name the test set as data.evaluate.test",
    "mean and deviation over 50 draws of the shots: attune sweep run flyp-few-shot-sst2 (or -pcam) --repeats 50",
)


def flyp() -> JobSpec:
    """ImageNet's settings for anybody's labelled images, with one plain template and under autocast."""
    published = imagenet()
    return published.model_copy(
        update={"data": _data(("a photo of a {}.",), epoch_end="drop"), "parallel": ParallelSpec()}
    )


def imagenet() -> JobSpec:
    """Batch 512, 10 epochs, OpenAI's 80 templates."""
    return _flyp(("imagenet",), global_size=512, epochs=10, weight_decay=0.1)


def iwildcam() -> JobSpec:
    """Batch 256, 20 epochs, weight decay 0.2."""
    return _flyp(("flyp-iwildcam",), global_size=256, epochs=20, weight_decay=0.2)


def fmow() -> JobSpec:
    """iWildCam's settings with templates for satellite images."""
    return _flyp(("flyp-fmow",), global_size=256, epochs=20, weight_decay=0.2)


def caltech101() -> JobSpec:
    """Batch 256, 100 epochs, no weight decay."""
    return _flyp(("flyp-caltech101",), global_size=256, epochs=100, weight_decay=0.0)


def cars() -> JobSpec:
    """Caltech101's settings with templates for cars."""
    return _flyp(("flyp-cars",), global_size=256, epochs=100, weight_decay=0.0)


def few_shot_sst2() -> JobSpec:
    """16 images of each of 2 classes, 20 full-batch steps, chosen by validation loss with the zero-shot model among."""
    return _few_shot(("flyp-sst2",), lr=1e-5, weight_decay=0.2)


def few_shot_pcam() -> JobSpec:
    """The same at a tenth of the rate and without weight decay."""
    return _few_shot(("flyp-pcam",), lr=1e-6, weight_decay=0.0)


def _flyp(templates: tuple[str, ...], *, global_size: int, epochs: int, weight_decay: float) -> JobSpec:
    return JobSpec(
        model=ModelSpec(name="ViT-B-16/openai"),
        objective=ClassPromptsObjective(),
        data=_data(templates, epoch_end="continue"),
        batch=BatchSpec(global_size=global_size),
        optim=OptimSpec(lr=1e-5, weight_decay=weight_decay, decay_vectors=True),
        schedule=ScheduleSpec(epochs=epochs, warmup_steps=500),
        parallel=ParallelSpec(zero_stage=0, precision="fp32"),
    )


def _few_shot(templates: tuple[str, ...], *, lr: float, weight_decay: float, shots: int = 16) -> JobSpec:
    spec = _flyp(templates, global_size=2 * shots, epochs=20, weight_decay=weight_decay)
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"shots": shots}),
            "optim": spec.optim.model_copy(update={"lr": lr}),
            "schedule": ScheduleSpec(epochs=20),
            "checkpoint": CheckpointSpec(at_start=True, metric="validation/cross_entropy"),
        }
    )


def _data(templates: tuple[str, ...], *, epoch_end: str) -> DataSpec:
    return DataSpec.model_validate(
        {"templates": templates, "epoch_end": epoch_end, "augmentation": AugmentationSpec(crop_scale=(0.9, 1.0))}
    )


def _command(name: str, folder: str) -> str:
    return train_command(name, f"data.train={folder}/train", f"data.validation={folder}/val")


RECIPES = (
    Recipe(
        "flyp",
        flyp,
        "Fine-tune like you pretrain: contrast images with prompts of their class",
        _PAPER,
        _SOURCE,
        NO_RESULT,
        _command("flyp", "photos"),
        notes=(
            "ImageNet's settings; with little data take fewer schedule.warmup_steps and a smaller batch",
            "objective.same_class=positive (or ignore) stops images of one class in a batch from repelling each other",
        ),
    ),
    Recipe(
        "flyp-imagenet",
        imagenet,
        "FLYP's ViT-B/16 on ImageNet",
        _PAPER,
        _SOURCE,
        "over ImageNet and its shifts more than 1 point above LP-FT both in and out of distribution (the paper's "
        "abstract; its table 2 has the figures); hardware not stated",
        _command("flyp-imagenet", "imagenet"),
        PublishedData("ImageNet-1k", num_train=1_281_167, num_classes=1000, devices=1),
        (_ROWS_NOTE, _LARGE_NOTE),
    ),
    Recipe(
        "flyp-iwildcam",
        iwildcam,
        "FLYP's ViT-B/16 on WILDS-iWildCam",
        _PAPER,
        _SOURCE,
        "2.3 points in and 2.7 out of distribution above the leaderboard's best (the paper's abstract); hardware not "
        "stated",
        _command("flyp-iwildcam", "iwildcam"),
        PublishedData("WILDS-iWildCam", num_train=129_809, num_classes=182, devices=1),
        (_ROWS_NOTE, _LARGE_NOTE, "the published metric is macro-F1"),
    ),
    Recipe(
        "flyp-fmow",
        fmow,
        "FLYP's ViT-B/16 on WILDS-FMoW",
        _PAPER,
        _SOURCE,
        "4.2 points out of distribution above standard fine-tuning, averaged over 7 shifts of which FMoW is one (the "
        "paper's abstract); hardware not stated",
        _command("flyp-fmow", "fmow"),
        PublishedData("WILDS-FMoW", num_train=76_863, num_classes=62, devices=1),
        (
            _ROWS_NOTE,
            _LARGE_NOTE,
            "the published metric is the accuracy of the worst region",
            "two of the 16 templates say `a` where the source puts `an` before a vowel",
        ),
    ),
    Recipe(
        "flyp-caltech101",
        caltech101,
        "FLYP's ViT-B/16 on Caltech-101",
        _PAPER,
        _SOURCE,
        "in the paper's table of transfer learning; hardware not stated",
        _command("flyp-caltech101", "caltech101"),
        None,
        (_ROWS_NOTE, _LARGE_NOTE, "how many images the source's split trains on is not published with its code"),
    ),
    Recipe(
        "flyp-cars",
        cars,
        "FLYP's ViT-B/16 on Stanford Cars",
        _PAPER,
        _SOURCE,
        "in the paper's table of transfer learning; hardware not stated",
        _command("flyp-cars", "cars"),
        PublishedData("Stanford Cars (8,144 less the source's 1,629 for validation)", 6_515, 196, devices=1),
        (_ROWS_NOTE, _LARGE_NOTE),
    ),
    Recipe(
        "flyp-few-shot-sst2",
        few_shot_sst2,
        "FLYP's few-shot ViT-B/16 on Rendered SST2",
        _PAPER,
        _SOURCE,
        _FEW_SHOT_RESULT,
        _command("flyp-few-shot-sst2", "sst2"),
        PublishedData("Rendered SST2", num_train=6_920, num_classes=2, devices=1),
        (*_SHOTS_NOTES, _LARGE_NOTE),
    ),
    Recipe(
        "flyp-few-shot-pcam",
        few_shot_pcam,
        "FLYP's few-shot ViT-B/16 on PatchCamelyon",
        _PAPER,
        _SOURCE,
        _FEW_SHOT_RESULT,
        _command("flyp-few-shot-pcam", "patch-camelyon"),
        PublishedData("PatchCamelyon", num_train=262_144, num_classes=2, devices=1),
        (*_SHOTS_NOTES, _LARGE_NOTE),
    ),
)
