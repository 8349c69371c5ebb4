"""Retrieval against nested loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import UnusableDataError
from trainer.evaluation import retrieval
from trainer.evaluation.metrics import NonFiniteOutputError
from trainer.evaluation.retrieval import retrieval_metrics


def slow_recalls(image_features, text_features, caption_images):
    """Each image and each caption ranks everything on the other side; a hit is one right item among the first k."""
    images, texts = image_features.tolist(), text_features.tolist()

    def similarity(image, text):
        return sum(a * b for a, b in zip(images[image], texts[text], strict=True))

    recalls = {}
    for k in (1, 5, 10):
        hits = []
        for image in sorted(set(caption_images)):
            ranking = sorted(range(len(texts)), key=lambda text: (-similarity(image, text), text))
            hits.append(any(caption_images[text] == image for text in ranking[:k]))
        recalls[f"image_to_text_r{k}"] = sum(hits) / len(hits)
        hits = []
        for text in range(len(texts)):
            ranking = sorted(range(len(images)), key=lambda image: (-similarity(image, text), image))
            hits.append(caption_images[text] in ranking[:k])
        recalls[f"text_to_image_r{k}"] = sum(hits) / len(hits)
    recalls["mean_recall"] = sum(recalls.values()) / 6
    return recalls


@st.composite
def captioned_images(draw):
    num_images = draw(st.integers(1, 14))
    counts = draw(st.lists(st.integers(0, 3), min_size=num_images, max_size=num_images).filter(any))
    # small integers: similarities are exact in float32, and ties are common
    vector = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    images = draw(st.lists(vector, min_size=num_images, max_size=num_images))
    texts = draw(st.lists(vector, min_size=sum(counts), max_size=sum(counts)))
    caption_images = [image for image, count in enumerate(counts) for _ in range(count)]
    order = draw(st.permutations(range(len(caption_images))))
    return torch.tensor(images).float(), torch.tensor(texts).float(), [caption_images[i] for i in order]


@settings(deadline=None)
@given(captioned_images(), st.integers(1, 40))
def test_recalls_equal_nested_loops_whatever_the_strip(case, max_strip_elements):
    images, texts, caption_images = case
    found = retrieval_metrics(images, texts, torch.tensor(caption_images), max_strip_elements=max_strip_elements)
    assert found == pytest.approx(slow_recalls(images, texts, caption_images))


def test_any_of_several_captions_counts():
    images = torch.eye(3)
    texts = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    caption_images = torch.tensor([0, 0, 1, 2])  # the first caption of image 0 looks like image 1
    metrics = retrieval_metrics(images, texts, caption_images)
    assert metrics["image_to_text_r1"] == pytest.approx(2 / 3)  # image 1: caption 0 ties with its own and comes first
    assert metrics["text_to_image_r1"] == pytest.approx(3 / 4)
    assert metrics["image_to_text_r5"] == 1.0


def test_the_similarity_matrix_is_never_held_whole(monkeypatch):
    widest = []
    real = retrieval._positions_in_strip

    def watched(scores, query_groups, item_groups):
        widest.append(scores.numel())
        return real(scores, query_groups, item_groups)

    monkeypatch.setattr(retrieval, "_positions_in_strip", watched)
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(50, 8, generator=generator), torch.randn(250, 8, generator=generator)
    owners = torch.arange(50).repeat_interleave(5)
    striped = retrieval_metrics(images, texts, owners, max_strip_elements=1000)
    assert max(widest) <= 1000
    assert striped == retrieval_metrics(images, texts, owners)


def test_random_features_recall_by_chance():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(400, 32, generator=generator), torch.randn(400, 32, generator=generator)
    metrics = retrieval_metrics(images, texts, torch.arange(400))
    assert metrics["image_to_text_r10"] == pytest.approx(10 / 400, abs=0.025)


def test_bad_input_is_named():
    with pytest.raises(UnusableDataError, match="no caption"):
        retrieval_metrics(torch.eye(2), torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    texts = torch.eye(2)
    texts[1, 0] = float("nan")
    with pytest.raises(NonFiniteOutputError, match="text features are not numbers for 1 of 2"):
        retrieval_metrics(torch.eye(2), texts, torch.tensor([0, 1]))
