import numpy as np
import torch

from dali_pipelines.loader import Batch
from trainer.objectives.class_prompts import ClassPrompts


def test_each_sample_meets_a_prompt_of_its_own_class_by_its_own_draw():
    texts = []

    def tokenize(prompts):
        texts.extend(prompts)
        return torch.arange(len(prompts))[:, None]

    seen = {}

    def engine(images, tokens):
        seen["prompts"] = [texts[int(token)] for token in tokens[:, 0]]
        unit = torch.eye(len(images))
        return unit, unit, torch.tensor(1.0)

    objective = ClassPrompts(
        tokenize=tokenize,
        class_names=["cat", "dog"],
        templates=["a {}.", "one {}.", "the {}."],
        device=torch.device("cpu"),
    )
    batch = Batch(
        images=torch.zeros(3, 3, 2, 2),
        rows=np.arange(3),
        labels=torch.tensor([1, 0, 1]),
        text_draws=np.array([0, 4, 2**32 - 1], np.uint32),
    )
    assert torch.isfinite(objective.loss(engine, batch))
    assert seen["prompts"] == ["a dog.", "one cat.", "a dog."]
