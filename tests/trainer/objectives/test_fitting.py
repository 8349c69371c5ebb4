"""What an objective changes about a model before it trains."""

import math

import open_clip
import pytest
import torch

from trainer.models import load_clip
from trainer.objectives.fitting import fit_to_objective
from trainer.spec import ClassPromptsObjective, ContrastiveObjective, DistillationObjective, ModelSpec

TINY = ModelSpec(name="attune-tiny-32")


def trained(model):
    return {name for name, parameter in model.module.named_parameters() if parameter.requires_grad}


def test_the_logit_scale_begins_where_clip_and_the_spec_say():
    model = load_clip(TINY)
    assert model.module.logit_scale.item() == pytest.approx(2.6593, abs=5e-5)
    scaled = fit_to_objective(model, objective=ContrastiveObjective(initial_logit_scale=50.0))
    assert scaled.module.logit_scale.item() == pytest.approx(math.log(50), rel=1e-6)
    assert scaled.config == model.config


def test_siglip_adds_a_bias_that_the_configuration_rebuilds():
    model = fit_to_objective(load_clip(TINY), objective=ClassPromptsObjective(loss="siglip"))
    assert model.module.logit_bias.tolist() == [-10.0]
    assert "logit_bias" in trained(model)
    rebuilt = open_clip.CLIP(**model.config, nonscalar_logit_scale=True)
    rebuilt.load_state_dict(model.module.state_dict())
    outputs = rebuilt(torch.zeros(1, 3, 32, 32), model.tokenize(["a"]))
    assert outputs[3].item() == -10.0


def test_a_bias_of_the_model_is_kept_by_siglip_and_held_by_other_losses():
    model = fit_to_objective(load_clip(TINY), objective=ContrastiveObjective(loss="siglip"))
    with torch.no_grad():
        model.module.logit_bias.fill_(-3.0)
    again = fit_to_objective(model, objective=ContrastiveObjective(loss="siglip"))
    assert again.module.logit_bias.item() == -3.0
    assert "logit_bias" not in trained(fit_to_objective(again, objective=ContrastiveObjective()))


@pytest.mark.parametrize(("towers", "weight"), [("image", 0.0), ("text", 0.0), ("both", 0.0), ("image", 1.0)])
def test_distillation_trains_what_is_compared(towers, weight):
    model = load_clip(TINY)
    everything = trained(model)
    objective = DistillationObjective(teacher=TINY, towers=towers, contrastive_weight=weight)
    found = trained(fit_to_objective(model, objective=objective))
    image = {name for name in everything if name.startswith("visual.")}
    text = everything - image - {"logit_scale"}
    expected = {"image": image, "text": text, "both": image | text}[towers] if weight == 0 else everything
    assert found == expected
