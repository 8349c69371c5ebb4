import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F  # noqa: N812
from torch import nn

from trainer.objectives.contrastive import info_nce


def features(seed, batch=8, width=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64), dim=-1)


def naive_info_nce(images, texts, scale):
    """The definition, one pair at a time."""
    total = 0.0
    for i in range(len(images)):
        to_texts = [math.exp(scale * float(images[i] @ text)) for text in texts]
        to_images = [math.exp(scale * float(image @ texts[i])) for image in images]
        total -= math.log(to_texts[i] / sum(to_texts)) + math.log(to_images[i] / sum(to_images))
    return total / (2 * len(images))


def test_the_loss_is_its_definition():
    images, texts = features(0), features(1)
    loss = info_nce(images, texts, logit_scale=torch.tensor([7.0]))
    assert loss.item() == pytest.approx(naive_info_nce(images, texts, 7.0), rel=1e-5)


def test_collapsed_features_cost_the_logarithm_of_the_batch():
    same = features(0)[:1].expand(8, -1)
    assert info_nce(same, same, logit_scale=torch.tensor(100.0)).item() == pytest.approx(math.log(8), rel=1e-5)


def test_k_identical_texts_leave_their_images_at_least_ln_k():
    images = torch.eye(8)
    texts = images.clone()
    texts[:4] = F.normalize(texts[:4].mean(0), dim=0)
    rows = F.cross_entropy(1000 * images @ texts.T, torch.arange(8), reduction="none")
    assert rows[:4].min().item() == pytest.approx(math.log(4), rel=1e-3)
    assert info_nce(images, texts, logit_scale=torch.tensor(1000.0)).item() >= math.log(4) / 4 - 1e-3


def _tower():
    torch.manual_seed(3)
    return nn.Linear(6, 5)


def _gradient_on_rank(rank, world_size, port, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    tower = _tower()
    share = slice(rank * 4, rank * 4 + 4)
    inputs, others = features(0).float()[share], features(1, width=5).float()[share]
    info_nce(F.normalize(tower(inputs), dim=-1), others, logit_scale=torch.tensor(5.0)).backward()
    gradient = tower.weight.grad
    dist.all_reduce(gradient)
    results[rank] = (gradient / world_size).numpy().tolist()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_big_batch(free_port):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_gradient_on_rank, args=(2, free_port, results), nprocs=2)
        over_ranks = [torch.tensor(results[rank]) for rank in range(2)]
    tower = _tower()
    image_features = F.normalize(tower(features(0).float()), dim=-1)
    info_nce(image_features, features(1, width=5).float(), logit_scale=torch.tensor(5.0)).backward()
    for gradient in over_ranks:
        torch.testing.assert_close(gradient, tower.weight.grad, rtol=1e-5, atol=1e-7)
