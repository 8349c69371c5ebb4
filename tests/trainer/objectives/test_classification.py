"""Supervised classification: smoothing, mixing, and what a fresh head costs."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from dali_pipelines.loader import Batch
from trainer.heads import init_fresh_head
from trainer.objectives.classification import Classification
from trainer.objectives.mixing import Mixing, mix

NO_MIXING = Mixing(mixup=0, cutmix=0)


def batch(labels, *, width=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(labels), 3, width, width, generator=generator)
    size = len(labels)
    mix_draws = np.random.default_rng(0).random((size, 5))
    return Batch(images, np.arange(size), torch.tensor(labels), np.zeros(size, np.uint32), mix_draws=mix_draws)


def test_a_fresh_head_of_1000_classes_begins_at_ln_1000():
    torch.manual_seed(0)
    head = nn.Linear(3 * 64, 1000)
    init_fresh_head(head)
    objective = Classification(label_smoothing=0.1, mixing=NO_MIXING)
    loss = objective.loss(nn.Sequential(nn.Flatten(), head), batch(list(range(16)))).item()
    assert loss == pytest.approx(6.9078, abs=5e-4)
    assert loss == pytest.approx(math.log(1000), abs=5e-4)


def test_mixed_images_meet_mixed_targets():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    labels = [0, 1, 2, 3]
    objective = Classification(label_smoothing=0.0, mixing=Mixing(mixup=1.0, cutmix=0))
    given = batch(labels)
    loss = objective.loss(model, given)
    images, share = mix(given.images, mixing=Mixing(mixup=1.0, cutmix=0), draws=given.mix_draws)
    own, other = (F.cross_entropy(model(images), torch.tensor(x), reduction="none") for x in (labels, [1, 0, 3, 2]))
    torch.testing.assert_close(loss, (share * own + (1 - share) * other).mean())
    assert abs((F.cross_entropy(model(given.images), given.labels) - loss).item()) > 0.05
    assert torch.equal(given.images, batch(labels).images)


def test_without_mixing_the_loss_is_cross_entropy_with_smoothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    given = batch([3, 1])
    loss = Classification(label_smoothing=0.2, mixing=NO_MIXING).loss(model, given)
    torch.testing.assert_close(loss, F.cross_entropy(model(given.images), given.labels, label_smoothing=0.2))
