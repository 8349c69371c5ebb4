"""Contrastive fine-tuning on captions, after ITRA's study of CLIP RN50 on COCO.

ITRA's baseline: batch 256, 10 epochs, learning rate 1e-5 (scaled linearly with the batch), weight decay 0.5,
100 warm-up steps, gradient norm clipped at 5.
"""

from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    ContrastiveObjective,
    DataSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ScheduleSpec,
)


def contrastive() -> JobSpec:
    """ITRA's baseline hyper-parameters with OpenAI's ViT-B/16 in place of RN50."""
    return JobSpec(
        model=ModelSpec(name="ViT-B-16/openai"),
        objective=ContrastiveObjective(),
        data=DataSpec(augmentation=AugmentationSpec(crop_scale=(0.9, 1.0))),
        batch=BatchSpec(global_size=256),
        optim=OptimSpec(name="adamw", lr=1e-5, weight_decay=0.5, clip_grad_norm=5.0),
        schedule=ScheduleSpec(epochs=10, warmup_steps=100),
    )
