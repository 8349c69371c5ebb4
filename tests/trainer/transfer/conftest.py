"""Two small exports to compare."""

import pytest
import torch

from trainer.export import export_clip
from trainer.model_card import ModelCard
from trainer.models import load_clip
from trainer.spec import ModelSpec


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Folders of two image-text models with different random weights."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp("exports") / f"model-{seed}")
        export_clip(load_clip(ModelSpec(name="attune-tiny-32")), folders[-1], card=ModelCard(spec=None, metrics={}))
    return folders
