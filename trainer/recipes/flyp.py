"""FLYP, Goyal et al. 2023 (https://arxiv.org/abs/2212.00638), for anybody's labelled images.

The published ImageNet settings: learning rate 1e-5, weight decay 0.1 on all parameters, batch 512, 10 epochs,
500 warm-up steps, crops of 90 to 100 % of the area, no flip, no clipping.
"""

from trainer.spec import (
    AugmentationSpec,
    BatchSpec,
    ClassPromptsObjective,
    DataSpec,
    JobSpec,
    ModelSpec,
    OptimSpec,
    ScheduleSpec,
)


def flyp() -> JobSpec:
    """The published settings; scale `batch.global_size` and `schedule.warmup_steps` to a small data set."""
    return JobSpec(
        model=ModelSpec(name="ViT-B-16/openai"),
        objective=ClassPromptsObjective(),
        data=DataSpec(augmentation=AugmentationSpec(crop_scale=(0.9, 1.0))),
        batch=BatchSpec(global_size=512),
        optim=OptimSpec(name="adamw", lr=1e-5, weight_decay=0.1, decay_vectors=True),
        schedule=ScheduleSpec(epochs=10, warmup_steps=500),
    )
