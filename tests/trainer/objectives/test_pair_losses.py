"""InfoNCE, UniCL and SigLIP against their definitions, and over ranks against one big batch."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F  # noqa: N812
from torch import nn

from trainer.objectives.pair_losses import info_nce, siglip


def features(seed, batch=8, width=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64), dim=-1)


CLASSES = [0, 1, 0, 2, -1, 1, 0, -1]
IDENTITIES = torch.tensor(CLASSES)[:, None]


def same(i, j):
    return i == j or CLASSES[i] == CLASSES[j] >= 0


def naive_info_nce(images, texts, scale, same_class="negative"):
    """The definition, one pair at a time."""
    total, size = 0.0, len(images)
    for rows, columns in ((images, texts), (texts, images)):
        logits = (scale * rows @ columns.T).tolist()
        for i in range(size):
            left = [j for j in range(size) if not (same_class == "ignore" and i != j and same(i, j))]
            positives = [j for j in range(size) if i == j or (same_class == "positive" and same(i, j))]
            normaliser = math.log(sum(math.exp(logits[i][j]) for j in left))
            total -= sum(logits[i][j] - normaliser for j in positives) / len(positives)
    return total / (2 * size)


def naive_siglip(images, texts, scale, bias, same_class="negative"):
    total, size = 0.0, len(images)
    for i in range(size):
        for j in range(size):
            related = i != j and same(i, j)
            if related and same_class == "ignore":
                continue
            sign = 1 if i == j or (related and same_class == "positive") else -1
            total -= math.log(1 / (1 + math.exp(-sign * (scale * float(images[i] @ texts[j]) + bias))))
    return total / size


@pytest.mark.parametrize("same_class", ["negative", "positive", "ignore"])
def test_the_losses_are_their_definitions(same_class):
    images, texts = features(0), features(1)
    options = {"identities": IDENTITIES, "same_class": same_class}
    loss = info_nce(images, texts, logit_scale=torch.tensor([7.0]), **options)
    assert loss.item() == pytest.approx(naive_info_nce(images, texts, 7.0, same_class), rel=1e-5)
    loss = siglip(images, texts, logit_scale=torch.tensor(7.0), logit_bias=torch.tensor([-2.0]), **options)
    assert loss.item() == pytest.approx(naive_siglip(images, texts, 7.0, -2.0, same_class), rel=1e-5)


def test_the_ways_to_treat_the_same_class_differ():
    images, texts = features(0), features(1)
    losses = {naive_info_nce(images, texts, 7.0, way) for way in ("negative", "positive", "ignore")}
    assert len(losses) == 3


def test_any_column_may_make_two_samples_the_same():
    columns = torch.tensor([[5, 1], [6, 1], [6, 2], [7, 3]])
    images, texts = features(0, batch=4), features(1, batch=4)
    joined = info_nce(images, texts, logit_scale=torch.tensor(3.0), identities=columns, same_class="ignore")
    logits = 3.0 * (images @ texts.T).float()
    for i, j in ((0, 1), (1, 2)):
        logits[i, j] = logits[j, i] = -math.inf
    own = torch.arange(4)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(joined, expected)


def test_collapsed_features_cost_the_logarithm_of_the_batch():
    collapsed = features(0)[:1].expand(8, -1)
    assert info_nce(collapsed, collapsed, logit_scale=torch.tensor(100.0)).item() == pytest.approx(
        math.log(8), rel=1e-5
    )


def test_k_identical_texts_leave_their_images_at_least_ln_k():
    images = torch.eye(8)
    texts = images.clone()
    texts[:4] = F.normalize(texts[:4].mean(0), dim=0)
    rows = F.cross_entropy(1000 * images @ texts.T, torch.arange(8), reduction="none")
    assert rows[:4].min().item() == pytest.approx(math.log(4), rel=1e-3)
    assert info_nce(images, texts, logit_scale=torch.tensor(1000.0)).item() >= math.log(4) / 4 - 1e-3


def test_identical_texts_of_one_class_cost_nothing_where_they_are_ignored():
    images, classes = torch.eye(8), torch.tensor([0, 0, 0, 0, 1, 2, 3, 4])
    texts = images.clone()
    texts[:4] = F.normalize(texts[:4].mean(0), dim=0)
    options = {"identities": classes[:, None], "same_class": "ignore"}
    assert info_nce(images, texts, logit_scale=torch.tensor(1000.0), **options).item() == pytest.approx(0, abs=1e-6)


def _loss(name, images, texts, identities, *, same_class="positive"):
    options = {"identities": identities, "same_class": same_class}
    if name == "siglip":
        return siglip(images, texts, logit_scale=torch.tensor(5.0), logit_bias=torch.tensor(-1.0), **options)
    return info_nce(images, texts, logit_scale=torch.tensor(5.0), **options)


def _tower():
    torch.manual_seed(3)
    return nn.Linear(6, 5)


def _gradients_on_rank(rank, world_size, port, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    share = slice(rank * 4, rank * 4 + 4)
    found = {}
    for name in ("info_nce", "siglip"):
        tower = _tower()
        images = F.normalize(tower(features(0).float()[share]), dim=-1)
        texts = F.normalize(tower(features(1).float()[share]), dim=-1)
        _loss(name, images, texts, IDENTITIES[share]).backward()
        dist.all_reduce(tower.weight.grad)
        found[name] = (tower.weight.grad / world_size).tolist()
    results[rank] = found
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one_big_batch(free_port):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_gradients_on_rank, args=(2, free_port, results), nprocs=2)
        over_ranks = dict(results)
    for name in ("info_nce", "siglip"):
        tower = _tower()
        images, texts = (F.normalize(tower(features(seed).float()), dim=-1) for seed in (0, 1))
        _loss(name, images, texts, IDENTITIES).backward()
        for rank in range(2):
            found = torch.tensor(over_ranks[rank][name])
            torch.testing.assert_close(found, tower.weight.grad, rtol=1e-4, atol=1e-6)
