"""A start and a model tuned from it, as exports of each layout, and images to measure them on."""

import pytest
import torch

from trainer.export import export_classifier, export_clip
from trainer.model_card import ModelCard
from trainer.models import clip_classifier, load_clip
from trainer.resolve import resolve
from trainer.spec import ModelSpec

NAME = "attune-tiny-32"


def disturbed(module, *, seed):
    """The module with every weight moved a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def card(digits, **objective):
    spec = resolve(
        spec={
            "model": NAME,
            "objective": objective,
            "data": {"train": str(digits / "train"), "templates": ["a scan of the digit {}."]},
            "batch": {"global_size": 16},
        }
    )
    names = tuple(sorted(folder.name for folder in (digits / "train").iterdir()))
    return ModelCard(spec=spec, metrics={"validation/top1": 0.5}, class_names=names, templates=spec.data.templates)


@pytest.fixture(scope="module")
def clips(digits, tmp_path_factory):
    """(start, tuned), as a FLYP job leaves them."""
    folders = [tmp_path_factory.mktemp("clip") / name for name in ("start", "tuned")]
    torch.manual_seed(0)  # as a job of seed 0 builds an architecture without weights
    model = load_clip(ModelSpec(name=NAME))
    export_clip(model, folders[0], card=card(digits, name="class_prompts"))
    disturbed(model.module, seed=1)
    export_clip(model, folders[1], card=card(digits, name="class_prompts"))
    return folders


@pytest.fixture(scope="module", params=["pooled", "projected"])
def classifiers(request, digits, tmp_path_factory):
    """(start, tuned) classifiers, in timm's layout and in Attune's own."""
    folders = [tmp_path_factory.mktemp("classifier") / name for name in ("start", "tuned")]
    description = card(digits, name="classification", head="fresh", features=request.param)
    torch.manual_seed(0)
    clip = load_clip(ModelSpec(name=NAME))
    model = clip_classifier(clip, class_names=description.class_names, features=request.param)
    for seed, folder in enumerate(folders):
        disturbed(model.module, seed=seed)
        export_classifier(model, folder, card=description)
    return folders
