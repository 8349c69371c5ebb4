"""Learned prompts against a text tower written out by hand."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from trainer.learned_prompts import LearnedContext, add_prompt
from trainer.model_setup import build_model
from trainer.spec import JobSpec
from trainer.towers import extend

LENGTH = 3


def prompted(manifest, *compat):
    torch.manual_seed(0)
    model = {"name": "attune-tiny-32", "text": {"prompt": {"length": LENGTH}}}
    return build_model(JobSpec.model_validate({"model": model, "compat": compat}), train=manifest)


def by_hand(module, tokens, *, pool_at):
    """Start token, vectors, the rest; the state at index `pool_at` of each text."""
    embedded = module.token_embedding.weight[tokens]
    vectors = module.text_prompt.vectors.expand(len(tokens), -1, -1)
    states = torch.cat([embedded[:, :1], vectors, embedded[:, 1:]], dim=1) + module.positional_embedding
    states = module.transformer(states, attn_mask=module.attn_mask)
    states = F.layer_norm(states, (96,), module.ln_final.weight, module.ln_final.bias)
    return states[torch.arange(len(tokens)), pool_at] @ module.text_projection


@pytest.mark.parametrize(("compat", "shift"), [((), LENGTH), (("itra-prompt-pooling",), 0)])
@torch.no_grad()
def test_vectors_stand_behind_the_start_token(digits_manifest, compat, shift):
    model = prompted(digits_manifest, *compat)
    module, tokens = model.module.eval(), model.tokenize(["a dog", "a very long text " * 9])
    assert tokens.shape == (2, 16 - LENGTH)
    expected = by_hand(module, tokens, pool_at=tokens.argmax(dim=-1) + shift)
    torch.testing.assert_close(module.encode_text(tokens), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(copy.deepcopy(module).encode_text(tokens), module.encode_text(tokens))


def test_a_copys_vectors_are_its_own(digits_manifest):
    model = prompted(digits_manifest)
    twin, tokens = copy.deepcopy(model.module), model.tokenize(["a dog"])
    with torch.no_grad():
        twin.text_prompt.vectors.add_(1.0)
        assert not torch.allclose(twin.encode_text(tokens), model.module.encode_text(tokens))


def test_only_the_vectors_can_train(digits_manifest):
    towers = {"image": {"lock": True}, "text": {"lock": True, "prompt": {"length": LENGTH}}}
    spec = JobSpec.model_validate({"model": {"name": "attune-tiny-32", **towers}})
    model = build_model(spec, train=digits_manifest)
    names = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
    assert sorted(names) == ["logit_scale", "text_prompt.vectors"]
    model.module(None, model.tokenize(["a dog"]))[1].sum().backward()
    assert model.module.text_prompt.vectors.grad.abs().min() > 0
    assert model.module.text_prompt.vectors.std().item() == pytest.approx(0.02, rel=0.2)


@torch.no_grad()
def test_a_tower_of_its_own_class_reads_the_same():
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-32")
    config["text_cfg"] |= {"layers": 2, "width": 64, "heads": 2, "vocab_size": 100, "context_length": 12}
    config["vision_cfg"] |= {"layers": 1, "width": 64}
    flat, custom = open_clip.CLIP(**config).eval(), open_clip.CustomTextCLIP(**config).eval()
    custom.text.load_state_dict({k: v for k, v in flat.state_dict().items() if k in custom.text.state_dict()})
    prompt = LearnedContext(length=2, width=64, init_std=0.5)
    for module in (flat, custom):
        add_prompt(extend(module), copy.deepcopy(prompt))
    tokens = torch.tensor([[1, 5, 6, 99, 0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(flat.encode_text(tokens), custom.encode_text(tokens))
