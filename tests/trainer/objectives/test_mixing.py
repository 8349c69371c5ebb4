"""Mixup and CutMix of neighbours: shares, boxes, targets, how often, and that micro-batches do not matter."""

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target, rand_bbox

from trainer.objectives.mixing import Mixing, mix, mixed_targets

NUM_PAIRS = 400
HEIGHT, WIDTH = 16, 20
IMAGES = torch.arange(2.0 * NUM_PAIRS)[:, None, None, None].expand(-1, 3, HEIGHT, WIDTH)
DRAWS = np.random.default_rng(0).random((2 * NUM_PAIRS, 5))


def test_mixup_is_a_weighted_sum_with_the_neighbour():
    mixed, share = mix(IMAGES, mixing=Mixing(mixup=0.8, cutmix=0), draws=DRAWS)
    first, second, own = IMAGES[::2], IMAGES[1::2], share[::2, None, None, None]
    torch.testing.assert_close(mixed[::2], own * first + (1 - own) * second)
    torch.testing.assert_close(mixed[1::2], own * second + (1 - own) * first)
    assert torch.equal(share[::2], share[1::2])
    assert len(share.unique()) == NUM_PAIRS


def test_cutmix_pastes_one_box_and_its_share_is_what_is_left():
    mixed, share = mix(IMAGES, mixing=Mixing(mixup=0, cutmix=1.0), draws=DRAWS)
    pasted = (mixed != IMAGES)[:, 0]
    for place in range(2 * NUM_PAIRS):
        assert mixed[place, 0][pasted[place]].unique().tolist() in ([], [float(place ^ 1)])
        assert share[place] == pytest.approx(1 - pasted[place].float().mean().item(), abs=1e-6)
        rows, columns = pasted[place].any(1), pasted[place].any(0)
        assert torch.equal(pasted[place], rows[:, None] & columns[None])
    assert torch.equal(pasted[::2], pasted[1::2])
    assert torch.equal(mixed[:, 0], mixed[:, 2])
    assert IMAGES[3, 0, 0, 0] == 3


def test_boxes_are_timms(monkeypatch):
    """The same share and centre give timm's box."""
    mixed, _ = mix(IMAGES, mixing=Mixing(mixup=0, cutmix=1.0), draws=DRAWS)
    for pair, (_, _, quantile, centre_y, centre_x) in enumerate(DRAWS[:200:2]):
        centres = iter([int(HEIGHT * centre_y), int(WIDTH * centre_x)])
        monkeypatch.setattr(np.random, "randint", lambda *_, found=centres, **__: next(found))
        top, bottom, left, right = rand_bbox((3, HEIGHT, WIDTH), quantile)  # Beta(1, 1) is uniform
        expected = torch.full((HEIGHT, WIDTH), 2.0 * pair)
        expected[top:bottom, left:right] = 2.0 * pair + 1
        assert torch.equal(mixed[2 * pair, 0], expected)


@pytest.mark.parametrize("micro_size", [2, 4, 10])
def test_any_even_micro_batch_gives_the_same_images(micro_size):
    mixing = Mixing(mixup=0.8, cutmix=1.0, probability=0.7)
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(40, 3, 9, 7, generator=chance)
    whole, shares = mix(images, mixing=mixing, draws=DRAWS[:40])
    parts = [
        mix(images[i : i + micro_size], mixing=mixing, draws=DRAWS[i : i + micro_size])
        for i in range(0, 40, micro_size)
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), whole)
    assert torch.equal(torch.cat([part[1] for part in parts]), shares)


def test_probabilities_say_how_often_and_which():
    mixing = Mixing(mixup=1.0, cutmix=1.0, probability=0.5, switch_probability=0.25)
    mixed, share = mix(IMAGES, mixing=mixing, draws=DRAWS)
    untouched = share == 1
    assert torch.equal(mixed[untouched], IMAGES[untouched])
    whole_pixels = ((mixed == IMAGES) | (mixed == IMAGES.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))).flatten(1).all(1)
    assert untouched.float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert (whole_pixels & ~untouched).float().mean().item() == pytest.approx(0.125, abs=0.05)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 2.0])
def test_shares_follow_the_beta_distribution(alpha):
    _, shares = mix(IMAGES, mixing=Mixing(mixup=alpha, cutmix=0), draws=DRAWS)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.06)
    assert shares[::2].var().item() == pytest.approx(0.25 / (2 * alpha + 1), abs=0.02)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_timms(smoothing):
    labels = torch.tensor([2, 0, 1, 1])
    targets = mixed_targets(labels, num_classes=5, own_share=torch.full((4,), 0.3), label_smoothing=smoothing)
    for pair in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(targets[pair], mixup_target(labels[pair], 5, 0.3, smoothing))
