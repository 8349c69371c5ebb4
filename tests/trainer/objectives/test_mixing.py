"""Mixup and CutMix: shares, targets and how often."""

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target

from trainer.objectives.mixing import Mixing, mix, mixed_targets

IMAGES = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 20)
DRAWS = np.random.default_rng(0).random(400)


def test_mixup_is_a_weighted_sum_with_the_mirrored_batch():
    for draw in DRAWS[:20]:
        mixed, share = mix(IMAGES, mixing=Mixing(mixup=0.8, cutmix=0), draw=draw)
        torch.testing.assert_close(mixed, share * IMAGES + (1 - share) * IMAGES.flip(0))
        assert 0 <= share <= 1


def test_cutmix_pastes_one_box_and_its_share_is_what_is_left():
    for draw in DRAWS[:50]:
        mixed, share = mix(IMAGES, mixing=Mixing(mixup=0, cutmix=1.0), draw=draw)
        pasted = mixed[0, 0] == 3.0
        assert share == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)
        assert torch.equal(mixed[:, 0] != IMAGES[:, 0], pasted.expand(4, -1, -1))
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns[None])
        assert torch.equal(mixed[0, 0], mixed[0, 2])
    assert torch.equal(IMAGES[3], torch.full((3, 16, 20), 3.0))


def test_the_draw_decides_everything():
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    again = [mix(IMAGES, mixing=mixing, draw=0.37) for _ in range(2)]
    assert torch.equal(again[0][0], again[1][0])
    assert len({mix(IMAGES, mixing=mixing, draw=draw)[1] for draw in DRAWS}) > 200


def test_probabilities_say_how_often_and_which():
    mixing = Mixing(mixup=1.0, cutmix=1.0, probability=0.5, switch_probability=0.25)
    results = [mix(IMAGES, mixing=mixing, draw=draw) for draw in DRAWS]
    untouched = np.mean([share == 1 for _, share in results])
    cut = np.mean([share < 1 and set(image[0, 0].unique().tolist()) <= {0.0, 3.0} for image, share in results])
    assert untouched == pytest.approx(0.5, abs=0.07)
    assert cut == pytest.approx(0.125, abs=0.05)


def test_shares_follow_the_beta_distribution():
    shares = [mix(IMAGES, mixing=Mixing(mixup=0.2, cutmix=0), draw=draw)[1] for draw in DRAWS]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(0.25 / 1.4, abs=0.02)  # of Beta(a, a): 1 / (4 (2 a + 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_timms(smoothing):
    labels = torch.tensor([2, 0, 1, 1])
    targets = mixed_targets(labels, num_classes=5, own_share=0.3, label_smoothing=smoothing)
    torch.testing.assert_close(targets, mixup_target(labels, 5, 0.3, smoothing))
