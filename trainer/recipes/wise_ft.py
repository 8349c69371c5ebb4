"""WiSE-FT, Wortsman et al. 2022 (https://arxiv.org/abs/2109.01903): fine-tune, then average with the start.

Settings as in https://github.com/mlfoundations/wise-ft. Run one with:

    attune train --recipe wise-ft-imagenet --set data.train=imagenet/train --set data.validation=imagenet/val

The zero-shot classifier becomes a linear head on the unit-norm embedding; image tower and head are trained together,
and the export is the middle of the line between the start and the end.
"""

from trainer.recipes.recipe import NO_RESULT, PublishedData, Recipe, train_command
from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    ClassificationObjective,
    DataSpec,
    ExportSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ParallelSpec,
    ScheduleSpec,
    WiseFt,
)

_PAPER = "Wortsman et al., CVPR 2022, Robust fine-tuning of zero-shot models, https://arxiv.org/abs/2109.01903"
_SOURCE = "https://github.com/mlfoundations/wise-ft (README.md, src/)"


def imagenet() -> JobSpec:
    """ViT-B/32 on ImageNet: batch 512, 10 epochs, the export half-way between start and end."""
    return JobSpec(
        model=ModelSpec(name="ViT-B-32/openai"),
        objective=ClassificationObjective(head="zero_shot", features="projected"),
        data=DataSpec(
            templates=("imagenet",), epoch_end="continue", augmentation=AugmentationSpec(crop_scale=(0.9, 1.0))
        ),
        batch=BatchSpec(global_size=512),
        optim=OptimSpec(lr=3e-5, weight_decay=0.1, clip_grad_norm=1.0, decay_vectors=True),
        schedule=ScheduleSpec(epochs=10, warmup_steps=500),
        parallel=ParallelSpec(zero_stage=0, precision="fp32"),
        export=ExportSpec(checkpoint="last", wise_ft=WiseFt(alpha=0.5)),
    )


def wise_ft() -> JobSpec:
    """The same for anybody's labelled images, under autocast."""
    return imagenet().model_copy(
        update={
            "model": ModelSpec(name="ViT-B-16/openai"),
            "data": DataSpec(augmentation=AugmentationSpec(crop_scale=(0.9, 1.0))),
            "parallel": ParallelSpec(),
        }
    )


def classification() -> JobSpec:
    """The fine-tuning stage alone, with the head on the features before the projection, which timm's models share."""
    published = wise_ft()
    return published.model_copy(
        update={
            "objective": ClassificationObjective(head="zero_shot"),
            "optim": published.optim.model_copy(update={"decay_vectors": False}),
            "export": ExportSpec(),
        }
    )


RECIPES = (
    Recipe(
        "classification",
        classification,
        "Cross-entropy fine-tuning of the image tower, head from zero-shot text weights",
        _PAPER,
        f"{_SOURCE}, its fine-tuning stage",
        NO_RESULT,
        train_command("classification", "data.train=photos/train", "data.validation=photos/val"),
        notes=("biases, norms and embeddings are not decayed, which the source does",),
    ),
    Recipe(
        "wise-ft",
        wise_ft,
        "Fine-tune from the zero-shot classifier, and export the average of start and end",
        _PAPER,
        _SOURCE,
        NO_RESULT,
        train_command("wise-ft", "data.train=photos/train", "data.validation=photos/val"),
        notes=(
            "export.wise_ft.alpha=best chooses the point on validation data; the published rule is 0.5 without looking",
            "with little data take fewer warm-up steps and a rate of 1e-5, which the authors advise for few shots",
        ),
    ),
    Recipe(
        "wise-ft-imagenet",
        imagenet,
        "WiSE-FT on ImageNet",
        _PAPER,
        _SOURCE,
        "1.6 points on ImageNet and 4 to 6 on five shifts above prior work, for the paper's largest model (abstract); "
        "hardware not stated",
        train_command("wise-ft-imagenet", "data.train=imagenet/train", "data.validation=imagenet/val"),
        PublishedData("ImageNet-1k", num_train=1_281_167, num_classes=1000, devices=1),
        (
            "ViT-B/32, as in the README's command; the paper uses the same settings for its other models",
            "the last epoch's weights are averaged with the start, as in the source, not those of the best epoch",
        ),
    ),
)
