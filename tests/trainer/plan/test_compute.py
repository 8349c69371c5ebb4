import dataclasses

import pytest
import torch

from trainer.model_setup import build_structure
from trainer.plan import compute
from trainer.spec import JobSpec


def structure(model, *, num_classes=None, **sections):
    spec = JobSpec.model_validate({"model": model, **sections})
    return build_structure(spec, num_classes=num_classes)


def own_count(*, patches, patch_size, width, blocks, top):
    """Closed form of Attune's count, with the class token."""
    tokens = patches + 1
    inside = blocks * (12 * tokens * width**2 + 2 * tokens**2 * width)
    return patches * 3 * patch_size**2 * width + inside + top


@pytest.mark.parametrize(
    ("name", "patches", "patch_size", "width", "blocks", "embedding"),
    [("ViT-B-16", 196, 16, 768, 12, 512), ("ViT-L-14-336", 576, 14, 1024, 24, 768)],
)
def test_attunes_count_has_a_closed_form_for_a_vit(name, patches, patch_size, width, blocks, embedding):
    expected = own_count(patches=patches, patch_size=patch_size, width=width, blocks=blocks, top=width * embedding)
    assert compute.image_macs(structure(name)) == expected


def test_a_text_costs_its_blocks_and_projection():
    model = structure("ViT-B-32")
    expected = 12 * (12 * 77 * 512**2 + 2 * 77**2 * 512) + 512 * 512
    assert compute.text_macs(model) == expected


def test_the_count_is_that_of_real_tensors():
    model = structure("attune-tiny-32")
    real = dataclasses.replace(model, module=model.module.to_empty(device="cpu"))
    images = torch.zeros(1, 3, 32, 32)
    expected = compute.count_macs(real.module, real.module.encode_image, images)
    assert compute.image_macs(structure("attune-tiny-32")) == expected > 0


def test_the_shape_of_a_vit_is_read_off_the_module():
    head = {"name": "classification", "head": "fresh", "features": "mean_patches"}
    shape = compute.vit_shape(structure("ViT-B-16", num_classes=10, objective=head).module)
    assert shape == compute.VitShape(
        patches=196, patch_size=16, channels=3, blocks=12, width=768, mlp_width=3072, norms=26, top_macs=7680
    )
    projected = {**head, "features": "projected"}
    shape = compute.vit_shape(structure("ViT-B-16", num_classes=10, objective=projected).module)
    assert shape.top_macs == 768 * 512 + 512 * 10


def test_open_clips_and_timms_vits_have_the_same_shape():
    fresh = {"name": "classification", "head": "fresh"}
    ours = structure("ViT-B-16", num_classes=10, objective=fresh)
    timms = structure("timm/vit_base_patch16_clip_224", num_classes=10, objective=fresh)
    assert compute.vit_shape(ours.module) == compute.vit_shape(timms.module)
    assert compute.image_macs(ours) == compute.image_macs(timms)


@pytest.mark.parametrize("name", ["RN50", "convnext_base"])
def test_the_published_formulas_are_for_plain_vits_only(name):
    assert compute.vit_shape(structure(name).module) is None


def job(**sections):
    return JobSpec.model_validate({"model": "ViT-B-32", **sections})


def test_training_takes_three_passes_and_locked_towers_one():
    towers = [compute.Tower(100, 1, True), compute.Tower(10, 2, False)]
    assert compute.train_flops_per_image(towers, spec=job(), accumulation=1) == 6 * 100 + 2 * 20


def test_recomputing_activations_and_caching_features_take_one_more_each():
    towers = [compute.Tower(100, 1, True)]
    recomputing = job(parallel={"activation_checkpointing": True})
    assert compute.train_flops_per_image(towers, spec=recomputing, accumulation=1) == 800
    caching = job(objective={"name": "contrastive", "feature_cache": True})
    found = [compute.train_flops_per_image(towers, spec=caching, accumulation=number) for number in (1, 2)]
    assert found == [600, 800]
