"""Supervised fine-tuning of the image tower: the fine-tuning stage of WiSE-FT (https://arxiv.org/abs/2109.01903).

Published settings: learning rate 3e-5, weight decay 0.1, batch 512, 10 epochs, 500 warm-up steps, gradient norm
clipped at 1, crops of 90 to 100 % of the area.
"""

from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    ClassificationObjective,
    DataSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ScheduleSpec,
)


def classification() -> JobSpec:
    """Head from zero-shot text weights, whole image tower trained."""
    return JobSpec(
        model=ModelSpec(name="ViT-B-16/openai"),
        objective=ClassificationObjective(head="zero_shot"),
        data=DataSpec(augmentation=AugmentationSpec(crop_scale=(0.9, 1.0))),
        batch=BatchSpec(global_size=512),
        optim=OptimSpec(name="adamw", lr=3e-5, weight_decay=0.1, clip_grad_norm=1.0),
        schedule=ScheduleSpec(epochs=10, warmup_steps=500),
    )
