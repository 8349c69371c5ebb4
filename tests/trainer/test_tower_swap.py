"""Towers of timm and Hugging Face in an image-text model."""

import shutil

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer

from trainer.errors import UnusableSpecError
from trainer.export import export_clip
from trainer.interpolate.folders import FolderLine
from trainer.model_card import ModelCard
from trainer.model_setup import build_model, build_structure
from trainer.models import load_clip
from trainer.spec import JobSpec, ModelSpec

TEXTS = ["a photo of a cat", "dog"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "dog"]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A tiny BERT and its tokenizer, as a folder of Hugging Face."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=20,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def load(**towers):
    torch.manual_seed(0)
    return load_clip(ModelSpec.model_validate({"name": "attune-tiny-32", **towers}))


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_before_pooler"])
@torch.no_grad()
def test_an_encoder_reads_text_and_is_pooled(encoder, pooling):
    model = load(text={"tower": f"local-dir:{encoder}", "pooling": pooling})
    tokens = model.tokenize(TEXTS)
    assert tokens.shape == (2, 16)  # the model's own length, as the encoder can read more
    bert = BertModel.from_pretrained(encoder).eval()
    output = bert(input_ids=tokens, attention_mask=(tokens != 0).long())
    mask = (tokens != 0).unsqueeze(-1)
    pooled = {
        "cls": output.pooler_output,
        "mean": (output.last_hidden_state * mask).sum(1) / mask.sum(1),
        "cls_before_pooler": output.last_hidden_state[:, 0],
    }[pooling]
    expected = pooled @ model.module.text.proj.weight.T
    torch.testing.assert_close(model.module.eval().encode_text(tokens), expected, rtol=1e-4, atol=1e-5)


def test_an_export_with_an_encoder_outlives_its_folder(encoder, tmp_path):
    copied = tmp_path / "bert"
    shutil.copytree(encoder, copied)
    model = load(text={"tower": f"local-dir:{copied}", "context_length": 12})
    export_clip(model, tmp_path / "export", card=ModelCard(spec=None, metrics={}))
    shutil.rmtree(copied)
    model.module.eval()
    with torch.no_grad():
        expected = model.module.encode_text(model.tokenize(TEXTS))
        name = f"local-dir:{tmp_path / 'export'}"
        plain, tokenize = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
        torch.testing.assert_close(plain.encode_text(tokenize(TEXTS)), expected)
        shutil.move(tmp_path / "export", tmp_path / "moved")
        again = load_clip(ModelSpec(name=f"local-dir:{tmp_path / 'moved'}"))
        torch.testing.assert_close(again.module.eval().encode_text(again.tokenize(TEXTS)), expected)
        assert again.tokenize(TEXTS).shape == (2, 12)


def test_a_point_between_exports_with_an_encoder_outlives_both(encoder, tmp_path):
    folders = tmp_path / "start", tmp_path / "tuned"
    model = load(text={"tower": f"local-dir:{encoder}", "context_length": 12})
    for folder in folders:
        export_clip(model, folder, card=ModelCard(spec=None, metrics={}))
    FolderLine.between(*folders, name="start").write(tmp_path / "point", alpha=0.5)
    for folder in folders:
        shutil.rmtree(folder)
    name = f"local-dir:{tmp_path / 'point'}"
    plain, again = open_clip.create_model(name).eval(), load_clip(ModelSpec(name=name))
    with torch.no_grad():
        tokens = model.tokenize(TEXTS)
        expected = model.module.eval().encode_text(tokens)
        torch.testing.assert_close(plain.encode_text(open_clip.get_tokenizer(name)(TEXTS)), expected)
        torch.testing.assert_close(again.module.eval().encode_text(again.tokenize(TEXTS)), expected)


@torch.no_grad()
def test_a_timm_tower_projects_into_the_shared_space(digit_images, tmp_path):
    model = load(image={"tower": "timm/test_resnet"}, image_size=32)
    visual = model.module.visual.eval()
    assert model.preprocess.mean == visual.trunk.pretrained_cfg["mean"] != load().preprocess.mean
    expected = visual.trunk(digit_images) @ visual.head.proj.weight.T
    torch.testing.assert_close(model.module.encode_image(digit_images), expected)
    export_clip(model, tmp_path / "export", card=ModelCard(spec=None, metrics={}))
    plain, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    torch.testing.assert_close(plain.eval().encode_image(digit_images), expected)
    assert tuple(preprocess.transforms[-1].mean) == model.preprocess.mean


def test_timm_weights_come_from_the_weights_folder(tmp_path, monkeypatch):
    source = timm.create_model("test_resnet", num_classes=0)
    folder = tmp_path / "timm" / "test_resnet.mine"
    folder.mkdir(parents=True)
    save_file(source.state_dict(), folder / "model.safetensors")
    monkeypatch.setenv("ATTUNE_WEIGHTS_DIR", str(tmp_path))
    trunk = load(image={"tower": "timm/test_resnet.mine"}).module.visual.trunk
    assert all(torch.equal(a, b) for a, b in zip(trunk.parameters(), source.parameters(), strict=True))


def test_both_towers_swapped_train_only_what_is_open(encoder, digits_manifest):
    spec = JobSpec.model_validate(
        {
            "model": {
                "name": "attune-tiny-32",
                "image": {"tower": "timm/test_resnet", "lock": True},
                "text": {"tower": f"local-dir:{encoder}", "adapter": {"targets": ["*query", "*value"]}},
            }
        }
    )
    module = build_model(spec, train=digits_manifest).module
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert len(adapters) == 2 * 2 * 2
    assert trained - adapters == {"logit_scale", "visual.head.proj.weight", "text.proj.weight"}
    planned = build_structure(spec, num_classes=None).module
    assert trained == {name for name, parameter in planned.named_parameters() if parameter.requires_grad}


def test_a_context_longer_than_the_encoders_is_refused(encoder):
    with pytest.raises(UnusableSpecError, match=r"model\.text\.context_length 30 is more than the tower's 20 tokens"):
        load(text={"tower": f"local-dir:{encoder}", "context_length": 30})


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(UnusableSpecError, match=r"model\.text\.tower 'local-dir:"):
        load(text={"tower": f"local-dir:{tmp_path}"})
