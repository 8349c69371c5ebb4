"""Every distillation loss against an independent computation or a closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from trainer.errors import UnusableSpecError
from trainer.objectives.distillation.coordinates import barlow_twins, simreg, simreg_l1, simreg_smooth_l1, vicreg
from trainer.objectives.distillation.prototypes import Dino, ProtoCpc, Prototypes
from trainer.objectives.distillation.queues import CompRess, Queue, Seed
from trainer.objectives.distillation.relations import rkd


def unit(seed, batch=6, width=5):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64), dim=1)


STUDENT, TEACHER = unit(0), unit(1)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_simreg_and_its_variants():
    difference = (STUDENT - TEACHER).numpy()
    assert simreg(STUDENT, TEACHER).item() == pytest.approx((difference**2).mean())
    assert simreg_l1(STUDENT, TEACHER).item() == pytest.approx(np.abs(difference).mean())
    huber = np.where(np.abs(difference) < 1, difference**2 / 2, np.abs(difference) - 0.5)
    assert simreg_smooth_l1(STUDENT, TEACHER).item() == pytest.approx(huber.mean())
    cosines = (STUDENT * TEACHER).sum(1)
    assert simreg(STUDENT, TEACHER).item() == pytest.approx((2 - 2 * cosines.mean().item()) / 5)


def test_vicreg_is_its_three_terms():
    total = 25 * ((STUDENT - TEACHER) ** 2).mean().item()
    for x in (STUDENT.numpy(), TEACHER.numpy()):
        covariance = np.cov(x, rowvar=False)
        total += 25 / 2 * np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
        total += (covariance**2)[~np.eye(5, dtype=bool)].sum() / 5
    assert vicreg(STUDENT, TEACHER).item() == pytest.approx(total)


def test_barlow_twins_is_zero_where_the_correlation_is_the_identity():
    corners = torch.tensor([[a, b, c] for a in (-1.0, 1) for b in (-1.0, 1) for c in (-1.0, 1)], dtype=torch.float64)
    assert barlow_twins(corners, 3 * corners + 1).item() == pytest.approx(0, abs=1e-8)
    assert barlow_twins(corners, -corners).item() == pytest.approx(3 * 4, rel=1e-4)
    x, y = STUDENT.numpy(), TEACHER.numpy()
    correlation = np.corrcoef(x, y, rowvar=False)[:5, 5:]
    on = np.eye(5, dtype=bool)
    expected = ((1 - correlation[on]) ** 2).sum() + 0.0051 * (correlation[~on] ** 2).sum()
    assert barlow_twins(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-2)


def naive_rkd(x, y):
    distances = [[[np.linalg.norm(a - b) for b in side] for a in side] for side in (x, y)]
    relative = [np.array(d) / np.mean([v for row in d for v in row if v > 0]) for d in distances]
    huber = np.vectorize(lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5)

    def cosine(side, i, j, k):
        first, second = side[j] - side[i], side[k] - side[i]
        norms = np.linalg.norm(first) * np.linalg.norm(second)
        return float(first @ second / norms) if norms else 0.0

    numbers = range(len(x))
    angles = [[cosine(side, i, j, k) for i in numbers for j in numbers for k in numbers] for side in (x, y)]
    return huber(relative[0] - relative[1]).mean(), huber(np.subtract(*angles)).mean()


def test_rkd_compares_distances_and_angles_of_embeddings_of_any_size():
    teacher = unit(4, width=9)
    distance, angle = naive_rkd(STUDENT.numpy(), teacher.numpy())
    for d, a in ((0.5, 1.0), (2.0, 0.0), (0.0, 3.0)):
        found = rkd(STUDENT, teacher, distance_weight=d, angle_weight=a).item()
        assert found == pytest.approx(d * distance + a * angle, rel=1e-6)
    turned = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    assert rkd(STUDENT, 3 * STUDENT @ turned, distance_weight=1, angle_weight=1).item() == pytest.approx(0, abs=1e-10)


def test_rkd_says_where_there_are_no_distances():
    same = STUDENT[:1].expand(3, -1)
    for student, teacher in ((STUDENT[:1], TEACHER[:1]), (same, TEACHER[:3]), (TEACHER[:3], same)):
        with pytest.raises(UnusableSpecError, match=r"objective\.loss: `rkd` .* [13] embeddings .* all the same"):
            rkd(student, teacher, distance_weight=1, angle_weight=1)


def test_rkd_has_finite_gradients_for_repeated_samples():
    student = torch.cat([STUDENT, STUDENT[:1]]).requires_grad_()
    rkd(student, unit(3, batch=7), distance_weight=1, angle_weight=1).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("num_queues", [1, 2])
def test_compress_is_the_divergence_of_similarities_to_its_queues(num_queues):
    width = 5 if num_queues == 1 else 7
    loss = CompRess(num_queues=num_queues, queue_size=20, temperature=0.2, seed=3)
    student, teacher = unit(0, width=width).float(), TEACHER.float()
    for step in range(2):
        anchors = {name: value.clone() for name, value in loss.state.items()}
        value = loss(student, teacher).item()
        if step == 0:
            continue
        queue = anchors["teacher.anchors"]
        own = queue if num_queues == 1 else anchors["student.anchors"]
        target, guess = softmax((teacher @ queue.T / 0.2).numpy()), softmax((student @ own.T / 0.2).numpy())
        assert value == pytest.approx((target * np.log(target / guess)).sum(1).mean(), rel=1e-4)
    assert torch.equal(loss.state["teacher.anchors"][:6], teacher)
    assert torch.equal(loss.state["teacher.anchors"][6:12], teacher)


def test_seed_is_a_cross_entropy_over_the_own_teacher_and_the_queue():
    loss = Seed(queue_size=4, temperature=0.1, student_temperature=0.3, seed=0)
    student, teacher = STUDENT.float(), TEACHER.float()
    loss(student, teacher)
    anchors = loss.state["anchors"].numpy()
    value = loss(student, teacher).item()
    t, s = teacher.numpy(), student.numpy()
    with_own = [np.concatenate([(x * t).sum(1, keepdims=True), x @ anchors.T], axis=1) for x in (t, s)]
    target, guess = softmax(with_own[0] / 0.1), softmax(with_own[1] / 0.3)
    assert value == pytest.approx(-(target * np.log(guess)).sum(1).mean(), rel=1e-5)


def test_a_queue_keeps_the_newest_in_place_of_the_oldest():
    queue = Queue(5, seed=0)
    first = queue.anchors(torch.zeros(1, 2)).clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    numbers = torch.arange(20.0).reshape(10, 2)
    queue.add(numbers[:3])
    assert torch.equal(queue.anchors(numbers), torch.cat([numbers[:3], first[3:]]))
    queue.add(numbers[3:6])
    assert torch.equal(queue.anchors(numbers), numbers[[5, 1, 2, 3, 4]])
    queue.add(numbers)
    assert sorted(queue.anchors(numbers)[:, 0].tolist()) == [10, 12, 14, 16, 18]
    assert torch.equal(Queue(5, seed=0).anchors(torch.zeros(1, 2)), first)


def test_dino_centres_the_teacher_and_sharpens_it():
    prototypes = Prototypes(11, seed=2)
    loss = Dino(prototypes, temperature=0.04, student_temperature=0.1)
    student, teacher = STUDENT.float(), TEACHER.float()
    t, s = prototypes.logits(teacher).numpy(), prototypes.logits(student).numpy()
    centre = np.zeros(11)
    for _ in range(3):
        expected = -(softmax((t - centre) / 0.04) * np.log(softmax(s / 0.1))).sum(1).mean()
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)
        centre = 0.9 * centre + 0.1 * t.mean(0)
    np.testing.assert_allclose(loss.state["centre"].numpy(), centre, rtol=1e-4, atol=1e-6)


def test_proto_cpc_divides_by_the_prior():
    prototypes = Prototypes(11, seed=2)
    loss = ProtoCpc(prototypes, temperature=0.04, student_temperature=0.1)
    student, teacher = STUDENT.float(), TEACHER.float()
    target, s = softmax(prototypes.logits(teacher).numpy() / 0.04), prototypes.logits(student).numpy() / 0.1
    prior = np.ones(11)
    for _ in range(3):
        expected = (np.log((prior * np.exp(s)).sum(1)) - (target * s).sum(1)).mean()
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)
        prior = 0.9 * prior + 0.1 * 11 * target.mean(0)
    assert loss.state["prior"].mean().item() == pytest.approx(1, rel=1e-5)


def test_a_student_equal_to_its_teacher_costs_least():
    student = TEACHER.float()
    for loss in (simreg, simreg_l1, simreg_smooth_l1, lambda s, t: rkd(s, t, distance_weight=1, angle_weight=1)):
        assert loss(student, student).item() == pytest.approx(0, abs=1e-6)
    same = CompRess(num_queues=1, queue_size=20, temperature=0.2, seed=3)
    assert same(student, student).item() == pytest.approx(0, abs=1e-6)
    entropy = Seed(queue_size=9, temperature=0.1, student_temperature=0.1, seed=0)(student, student).item()
    assert 0 < entropy < math.log(10)
