"""ITRA (https://github.com/ChenDelong1999/ITRA): contrastive fine-tuning of CLIP for image-text retrieval.

Settings as in its guide on MS-COCO and RSICD. Run one with:

    attune train --recipe itra-coco-rn50-baseline --set data.train=coco/train.csv --set data.validation=coco/test.csv

The learning rate is 1e-5 for a batch of 256 and follows the batch linearly.
"""

from trainer.recipes.recipe import NO_RESULT, PublishedData, Recipe, train_command
from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    ContrastiveObjective,
    DataSpec,
    ImageTowerSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ParallelSpec,
    ScheduleSpec,
    TextTowerSpec,
)

_PAPER = "Radford et al. 2021, https://arxiv.org/abs/2103.00020 (the objective); ITRA is code without a paper"
_SOURCE = "https://github.com/ChenDelong1999/ITRA (docs, fine-tuning CLIP for MS-COCO retrieval)"
_COCO = PublishedData("MS-COCO Captions 2017", num_train=118_287, num_classes=None, devices=8)
_STEPS_NOTE = "the source skips the short batch that ends each epoch after it has moved the schedule; here it is filled"
_CAPTION_NOTE = "one caption of an image is drawn each time it is seen, of all it has; the source takes the first five"
_CLIP_NOTE = "optim.clip_grad_norm limits the whole batch's gradient; the source's is divided by the number of devices"

_IMAGE_PARTIAL_L14 = ("!ln_post", *(f"!resblocks.{block}" for block in range(23, 17, -1)))
_TEXT_PARTIAL_L14 = ("!text_projection", "!ln_final", *(f"!resblocks.{block}" for block in range(11, 8, -1)))


def coco_rn50_baseline() -> JobSpec:
    """RN50 on COCO captions: batch 256, 10 epochs."""
    return _itra(ModelSpec(name="RN50/openai"), global_size=256, epochs=10, weight_decay=0.5)


def coco_rn50_improved() -> JobSpec:
    """Batch 800, 15 epochs and weight decay 1.0."""
    return _itra(ModelSpec(name="RN50/openai"), global_size=800, epochs=15, weight_decay=1.0)


def coco_rn50_partial() -> JobSpec:
    """Most of the image tower and the text embeddings frozen, which makes room for a batch of 1792."""
    model = ModelSpec(
        name="RN50/openai",
        image=ImageTowerSpec(lock=True, lock_patterns=("!attnpool", "!layer4")),
        text=TextTowerSpec(lock_patterns=("positional_embedding", "token_embedding")),
    )
    return _itra(model, global_size=1792, epochs=15, weight_decay=1.0)


def rsicd_vit_l14_336() -> JobSpec:
    """ViT-L/14@336px on the satellite images of RSICD, the upper quarter of each tower trained."""
    model = ModelSpec(
        name="ViT-L-14-336/openai",
        image=ImageTowerSpec(lock=True, lock_patterns=_IMAGE_PARTIAL_L14),
        text=TextTowerSpec(lock=True, lock_patterns=_TEXT_PARTIAL_L14),
    )
    spec = _itra(model, global_size=128, epochs=30, weight_decay=0.5)
    optim = {"lr": 1e-6, "lr_batch": 128, "layer_decay": 0.9, "layer_decay_text": 0.9}
    return spec.model_copy(update={"optim": spec.optim.model_copy(update=optim)})


def contrastive() -> JobSpec:
    """The baseline with OpenAI's ViT-B/16 and the logit scale held below 100."""
    spec = _itra(ModelSpec(name="ViT-B-16/openai"), global_size=256, epochs=10, weight_decay=0.5)
    return spec.model_copy(update={"objective": ContrastiveObjective(), "parallel": ParallelSpec()})


def _itra(model: ModelSpec, *, global_size: int, epochs: int, weight_decay: float) -> JobSpec:
    return JobSpec(
        model=model,
        objective=ContrastiveObjective(max_logit_scale=None),
        data=DataSpec(epoch_end="continue", augmentation=AugmentationSpec(crop_scale=(0.9, 1.0))),
        batch=BatchSpec(global_size=global_size),
        optim=OptimSpec(lr=1e-5, lr_batch=256, weight_decay=weight_decay, clip_grad_norm=5.0),
        schedule=ScheduleSpec(epochs=epochs, warmup_steps=100),
        parallel=ParallelSpec(zero_stage=0, precision="amp_bf16"),
    )


def _command(name: str) -> str:
    return train_command(name, "data.train=coco/train.csv", "data.validation=coco/test.csv")


RECIPES = (
    Recipe(
        "contrastive",
        contrastive,
        "Symmetric InfoNCE on image-caption pairs",
        "Radford et al. 2021, https://arxiv.org/abs/2103.00020",
        "hyper-parameters of ITRA's baseline, https://github.com/ChenDelong1999/ITRA",
        NO_RESULT,
        train_command("contrastive", "data.train=captions/train.csv", "data.validation=captions/val.csv"),
        notes=(
            "the learning rate follows batch.global_size linearly from 1e-5 at 256",
            "negatives come from one forward pass of all ranks; objective.feature_cache=true takes them from the whole "
            "batch where it is accumulated",
        ),
    ),
    Recipe(
        "itra-coco-rn50-baseline",
        coco_rn50_baseline,
        "ITRA's baseline: RN50 on COCO captions, batch 256",
        _PAPER,
        _SOURCE,
        "COCO mean recall 58.39 zero-shot -> 73.98 (image to text R@1/5/10 64.84/86.62/92.30, text to image "
        "44.99/72.76/82.34), 8 x RTX 2080 Ti, 3.5 min an epoch",
        _command("itra-coco-rn50-baseline"),
        _COCO,
        (_STEPS_NOTE, _CLIP_NOTE, _CAPTION_NOTE),
    ),
    Recipe(
        "itra-coco-rn50-improved",
        coco_rn50_improved,
        "ITRA's improved baseline: batch 800, 15 epochs, weight decay 1",
        _PAPER,
        _SOURCE,
        "COCO mean recall 75.04 (image to text R@1/5/10 65.34/87.44/92.84, text to image 46.70/74.45/83.47), "
        "8 x RTX 2080 Ti",
        _command("itra-coco-rn50-improved"),
        _COCO,
        (_STEPS_NOTE, _CLIP_NOTE, _CAPTION_NOTE),
    ),
    Recipe(
        "itra-coco-rn50-partial",
        coco_rn50_partial,
        "ITRA's best: attention pool, layer 4 and the text blocks trained, batch 1792",
        _PAPER,
        _SOURCE,
        "COCO mean recall 76.02 (image to text R@1/5/10 65.95/88.30/93.66, text to image 48.08/75.71/84.42), "
        "8 x RTX 2080 Ti",
        _command("itra-coco-rn50-partial"),
        _COCO,
        (_STEPS_NOTE, _CLIP_NOTE, _CAPTION_NOTE, "the locked image tower keeps its batch statistics, as in the source"),
    ),
    Recipe(
        "itra-rsicd-vit-l14-336",
        rsicd_vit_l14_336,
        "ITRA's RSICD run: the upper quarter of ViT-L/14@336px, layer decay 0.9 in both towers",
        _PAPER,
        _SOURCE,
        "none: the source gives the command without its result; 8 x RTX 2080 Ti",
        "attune train --recipe itra-rsicd-vit-l14-336 --set 'data.train={path: rsicd/train.tsv, "
        "image_column: filename, caption_column: title, encoding: gb18030, images_root: rsicd/images}'",
        PublishedData("RSICD", num_train=8_734, num_classes=None, devices=8),
        (
            _STEPS_NOTE,
            _CLIP_NOTE,
            "learning rate 1e-6 as in the command; the source's name for the run says 1e-5",
            "layer decay reaches the embeddings; compat=[itra-layer-decay] leaves them at the full rate, as the source",
        ),
    ),
)
