"""Cross-entropy over the texts of all classes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from dali_pipelines.loader import Batch
from trainer.objectives.class_cross_entropy import ClassCrossEntropy

CLASS_TOKENS = torch.arange(3 * 5).reshape(3, 5, 1)  # the token of class c in template t is 5 c + t


def batch(step, labels=(0, 2, 2)):
    size = len(labels)
    images, draws = torch.zeros(size, 3, 2, 2), np.zeros(size, np.uint32)
    return Batch(images, np.arange(size), torch.tensor(labels), draws, step=step)


class Engine:
    """Gives class c the unit vector c, and every image the mean of all."""

    def __init__(self):
        self.seen = []

    def __call__(self, images, tokens):
        self.seen.append(tokens[:, 0].tolist())
        image_features = F.normalize(torch.tensor([[3.0, 2.0, 1.0]]), dim=1).expand(len(images), -1)
        return image_features, torch.eye(3), torch.tensor([2.0])


def test_the_loss_is_over_all_classes():
    loss = ClassCrossEntropy(CLASS_TOKENS, seed=0).loss(Engine(), batch(0)).item()
    scores = [2 * value / math.sqrt(14) for value in (3, 2, 1)]
    normaliser = math.log(sum(math.exp(score) for score in scores))
    assert loss == pytest.approx(normaliser - (scores[0] + 2 * scores[2]) / 3, rel=1e-6)


def test_each_class_has_one_template_a_step_whatever_the_batch():
    engine = Engine()
    objective = ClassCrossEntropy(CLASS_TOKENS, seed=7)
    for step in (0, 0, 1, 2, 3):
        objective.loss(engine, batch(step, labels=(1,) if step else (0, 1)))
    ClassCrossEntropy(CLASS_TOKENS, seed=7).loss(engine, batch(3))
    assert engine.seen[0] == engine.seen[1]
    assert engine.seen[4] == engine.seen[5]
    assert len({tuple(tokens) for tokens in engine.seen}) >= 3
    for tokens in engine.seen:
        assert [token // 5 for token in tokens] == [0, 1, 2]
