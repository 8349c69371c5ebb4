"""An image-text export and a classifier export, small and random, and a few picture files."""

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.export import export_classifier, export_clip
from trainer.model_card import ModelCard
from trainer.models import clip_classifier, load_clip
from trainer.spec import ModelSpec

CLASS_NAMES = ("cat", "dog", "bird")


@pytest.fixture(scope="session")
def clip_export(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "export"
    card = ModelCard(spec=None, metrics={}, class_names=CLASS_NAMES, templates=("a drawing of a {}.",))
    export_clip(load_clip(ModelSpec(name="attune-tiny-32")), folder, card=card)
    return folder


@pytest.fixture(scope="session")
def classifier_export(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier") / "export"
    classifier = clip_classifier(load_clip(ModelSpec(name="attune-tiny-32")), class_names=CLASS_NAMES)
    export_classifier(classifier, folder, card=ModelCard(spec=None, metrics={}, class_names=CLASS_NAMES))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Five files; the last has the first one's name, in another folder."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    generator = np.random.default_rng(0)
    names = ["one.png", "two.jpg", "three.png", "four.jpg", "more/one.png"]
    for name in names:
        pixels = generator.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [folder / name for name in names]
