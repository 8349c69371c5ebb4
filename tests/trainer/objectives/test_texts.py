"""Which text goes with which image, and which samples count as the same."""

import numpy as np
import torch

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.objectives.texts import CaptionTexts, PromptTexts, tokenize_prompts
from trainer.objectives.token_tables import TokenTables

CPU = torch.device("cpu")


class Numbering:
    """A tokenizer whose tokens say which text it was given."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return torch.arange(len(self.texts) - len(texts), len(self.texts))[:, None]

    def read(self, tokens):
        return [self.texts[number] for number in tokens[:, 0].tolist()]


def batch(*, rows=(0, 1, 2), labels=(1, 0, 1), draws=(0, 4, 2**32 - 1)):
    return Batch(
        images=torch.zeros(len(rows), 3, 2, 2),
        rows=np.array(rows),
        labels=torch.tensor(labels),
        text_draws=np.array(draws, np.uint32),
    )


def test_each_sample_meets_a_prompt_of_its_own_class_by_its_own_draw():
    tokenize = Numbering()
    templates = ["a {}.", "one {}.", "the {}."]
    class_tokens = tokenize_prompts(["cat", "dog"], templates, tokenize=tokenize, tables=TokenTables())
    assert class_tokens.shape == (2, 3, 1)
    texts = PromptTexts(class_tokens)
    assert tokenize.read(texts.tokens(batch())) == ["a dog.", "one cat.", "a dog."]
    assert texts.identities(batch()).tolist() == [[1], [0], [1]]


CAPTIONS = [["red", "crimson"], ["blue"], ["red"], ["sky", "blue"]]


def captions(labelled):
    tokenize = Numbering()
    manifest = Manifest.from_columns(
        "/data",
        paths=[f"{row}.jpg" for row in range(4)],
        sizes=[(4, 4)] * 4,
        captions=CAPTIONS,
        class_names=["a", "b"] if labelled else [],
    )
    return tokenize, CaptionTexts(manifest, tokenize=tokenize, tables=TokenTables(), device=CPU)


def test_each_image_meets_one_of_its_captions_by_its_own_draw():
    tokenize, texts = captions(labelled=False)
    seen = batch(rows=(0, 0, 3, 1), labels=(-1,) * 4, draws=(0, 1, 3, 2**32 - 1))
    tokens = texts.tokens(seen)
    assert tokenize.read(tokens) == ["red", "crimson", "blue", "blue"]
    assert tokens.dtype == torch.int64


def test_captions_are_tokenised_once_however_often_they_are_drawn():
    tokenize, texts = captions(labelled=False)
    for _ in range(3):
        texts.tokens(batch(rows=(0, 1, 2, 3), labels=(-1,) * 4, draws=(0, 1, 2, 3)))
    assert len(tokenize.texts) == 6


def test_without_classes_samples_are_the_same_by_caption_or_by_image():
    _, texts = captions(labelled=False)
    seen = texts.identities(batch(rows=(0, 0, 2, 1), labels=(-1,) * 4, draws=(0, 1, 0, 0)))
    same = (seen[:, None] == seen[None]).any(2)
    assert same.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert (seen >= 0).all()


def test_with_classes_captions_count_as_the_same_by_class():
    _, texts = captions(labelled=True)
    assert texts.identities(batch(labels=(4, -1, 4))).tolist() == [[4], [-1], [4]]
