"""Nearest neighbours against a loop and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from trainer.errors import UnusableDataError
from trainer.evaluation.bank import FeatureBank, feature_bank, linear_probe, neighbour_votes
from trainer.evaluation.passes import Pass

CPU = torch.device("cpu")


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(0)
    features = 5 * torch.randn(60, 8, generator=generator)  # not of unit norm
    labels = torch.randint(4, (60,), generator=generator)
    return FeatureBank(features, labels, ("a", "b", "c", "d", "without images"))


@pytest.fixture
def queries():
    return torch.randn(15, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_neighbours_vote_by_their_similarity(bank, queries, temperature):
    found = neighbour_votes(bank, queries, neighbours=7, temperature=temperature).softmax(dim=1)
    for query, shares in zip(queries, found, strict=True):
        cosines = [float(query @ own / query.norm() / own.norm()) for own in bank.features_nd]
        nearest = sorted(range(60), key=lambda row: -cosines[row])[:7]
        votes = [0.0] * 5
        for row in nearest:
            votes[bank.labels_n[row]] += math.exp(cosines[row] / temperature)
        assert shares.tolist() == pytest.approx([vote / sum(votes) for vote in votes], rel=1e-4)


def test_with_one_neighbour_it_is_scikit_learns(bank, queries):
    theirs = KNeighborsClassifier(1, metric="cosine").fit(bank.features_nd.numpy(), bank.labels_n.numpy())
    found = neighbour_votes(bank, queries, neighbours=1, temperature=0.07).argmax(dim=1)
    assert np.array_equal(found.numpy(), theirs.predict(queries.numpy()))


def test_more_neighbours_than_images_are_refused(bank, queries):
    with pytest.raises(UnusableDataError, match="k = 61 needs as many training images, got 60"):
        neighbour_votes(bank, queries, neighbours=61, temperature=0.07)


def test_a_stronger_penalty_makes_smaller_weights(bank):
    weight, bias = linear_probe(bank, c=10.0)
    assert (weight.shape, bias.shape) == ((5, 8), (5,))
    assert linear_probe(bank, c=0.001)[0].norm() < weight.norm() / 2


def test_only_images_with_a_label_are_learned_from(clip, make_manifest, labels):
    names = ("red thing", "green thing", "blue thing")
    partly = [*labels[:8], -1, -1, -1]
    bank = feature_bank(clip, make_manifest(labels=partly, class_names=names), Pass(CPU, batch_size=3))
    assert bank.features_nd.shape[0] == 8
    assert bank.labels_n.tolist() == labels[:8]
    with pytest.raises(UnusableDataError, match="these have no labels"):
        feature_bank(clip, make_manifest(), Pass(CPU))
