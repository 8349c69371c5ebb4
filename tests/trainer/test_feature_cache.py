"""Feature caching: the gradients of one big batch, whatever it is divided into."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import trainer
from dali_pipelines.loader import Batch
from trainer.feature_cache import step_losses
from trainer.objectives.pairs import PairObjective
from trainer.random_state import random_state

ROOT = Path(trainer.__file__).parents[1]


class TwoTowers(nn.Module):
    """A small model with what makes caching hard: dropout, and statistics of the batch if asked for."""

    def __init__(self, *, dropout, batch_norm=False):
        super().__init__()
        torch.manual_seed(1)
        norm = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
        self.image = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 16), norm, nn.Dropout(dropout), nn.GELU(), nn.Linear(16, 8)
        )
        self.text = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Dropout(dropout), nn.Linear(48, 8))
        self.logit_scale, self.logit_bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.full((1,), -1.5))

    def forward(self, images, tokens):
        image, text = F.normalize(self.image(images), dim=-1), F.normalize(self.text(tokens), dim=-1)
        return image, text, self.logit_scale.exp(), self.logit_bias


class Words:
    def tokens(self, batch):
        return torch.as_tensor(batch.text_draws.astype("int64"))[:, None] + torch.tensor([0, 10, 20])

    def identities(self, batch):
        return batch.labels[:, None]


def whole_batch(size=12):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 2, 2, generator=generator)
    labels = torch.randint(4, (size,), generator=generator)
    draws = torch.randint(30, (size,), generator=generator).numpy().astype(np.uint32)
    return Batch(images, np.arange(size), labels, draws)


def divided(batch, parts):
    size = len(batch.rows) // parts
    slices = [slice(start, start + size) for start in range(0, len(batch.rows), size)]
    return [Batch(batch.images[s], batch.rows[s], batch.labels[s], batch.text_draws[s]) for s in slices]


def gradients(model, objective, batches, *, cached, together=None):
    """As accumulation makes them: each micro-batch divided by their number; all cached, or so many `together`."""
    model.zero_grad()
    values = []
    for loss in step_losses(objective, model, batches, cached=(together or len(batches)) if cached else 1):
        (loss / len(batches)).backward()
        values.append(loss.item())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, values


@pytest.mark.parametrize("parts", [1, 3, 12])
@pytest.mark.parametrize("options", [("info_nce", "negative"), ("info_nce", "positive"), ("siglip", "ignore")])
def test_gradients_and_loss_are_those_of_the_whole_batch(options, parts):
    loss, same_class = options
    model, objective = TwoTowers(dropout=0.0), PairObjective(Words(), loss=loss, same_class=same_class)
    batch = whole_batch()
    expected, (value,) = gradients(model, objective, [batch], cached=False)
    found, values = gradients(model, objective, divided(batch, parts), cached=True)
    assert values == pytest.approx([value] * parts, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    if parts > 1:
        plain, _ = gradients(model, objective, divided(batch, parts), cached=False)
        assert not torch.allclose(plain["logit_scale"], expected["logit_scale"], rtol=0.02)


def test_a_part_of_the_micro_batches_can_be_contrasted_together():
    """Four micro-batches in pairs have the gradients and losses of two batches of twice the size."""
    model, objective = TwoTowers(dropout=0.0), PairObjective(Words(), loss="info_nce")
    expected, values = gradients(model, objective, divided(whole_batch(), 2), cached=False)
    found, pieces = gradients(model, objective, divided(whole_batch(), 4), cached=True, together=2)
    assert pieces == pytest.approx([values[0]] * 2 + [values[1]] * 2, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_dropout_is_drawn_once_for_both_passes():
    """The gradient by finite differences, of the loss that the drawn masks belong to."""
    model, objective = TwoTowers(dropout=0.5).double(), PairObjective(Words(), loss="siglip")
    batches = [Batch(b.images.double(), b.rows, b.labels, b.text_draws) for b in divided(whole_batch(), 3)]
    torch.manual_seed(5)
    found, (value, *_) = gradients(model, objective, batches, cached=True)
    after = random_state()["cpu"]
    moved = {}
    for shift in (1e-4, -1e-4):
        with torch.no_grad():
            model.image[1].weight[2, 5] += shift
        torch.manual_seed(5)
        moved[shift] = gradients(model, objective, batches, cached=True)[1][0]
        with torch.no_grad():
            model.image[1].weight[2, 5] -= shift
    slope = (moved[1e-4] - moved[-1e-4]) / 2e-4
    assert found["image.1.weight"][2, 5].item() == pytest.approx(slope, rel=0.02)
    assert moved[1e-4] != value
    torch.manual_seed(5)
    with torch.no_grad():
        for batch in batches:
            objective.features(model, objective.inputs(batch))
    assert torch.equal(after, random_state()["cpu"])


def test_running_averages_count_each_micro_batch_once():
    once, twice = (TwoTowers(dropout=0.0, batch_norm=True) for _ in range(2))
    objective = PairObjective(Words(), loss="siglip")
    gradients(once, objective, divided(whole_batch(), 3), cached=False)
    gradients(twice, objective, divided(whole_batch(), 3), cached=True)
    assert twice.image[2].num_batches_tracked.item() == 3
    torch.testing.assert_close(once.image[2].running_mean, twice.image[2].running_mean)
    torch.testing.assert_close(once.image[2].running_var, twice.image[2].running_var)


def test_a_bias_that_the_loss_does_not_read_gets_no_gradient():
    found, _ = gradients(TwoTowers(dropout=0.0), PairObjective(Words(), loss="info_nce"), [whole_batch()], cached=True)
    assert "logit_bias" not in found
    assert found["logit_scale"].abs().item() > 1e-4


@pytest.mark.slow
def test_gradients_of_4_x_16_are_those_of_1_x_64_on_two_ranks_under_zero(tmp_path):
    output = tmp_path / "differences.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "feature_cache.py"), "--json", str(output)]
    run = subprocess.run(
        [*command, "--stages", "1", "2", "3", "--losses", "info_nce"],
        capture_output=True,
        text=True,
        env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)
    results = json.loads(output.read_text())
    assert [result["stage"] for result in results] == [1, 2, 3]
    for result in results:
        assert len(result["cached"]) > 40
        for name, difference in result["cached"].items():
            print(f"ZeRO {result['stage']} {name}: {difference:.1e}")
        assert max(result["cached"].values()) < 1e-5
        assert result["loss_difference"] < 1e-6
        assert result["plain"]["logit_scale"] > 1e-3
        assert max(result["plain"].values()) > 0.05
