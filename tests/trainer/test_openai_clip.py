"""OpenAI's calls, against open_clip, an independent tokenizer and OpenAI's published figures, where its weights are."""

import gzip
import io
import json
import re

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import save_file

from trainer import openai_clip as clip
from trainer.catalogue import weights_dir
from trainer.errors import UnusableDataError
from trainer.export import export_clip
from trainer.model_card import ModelCard
from trainer.model_setup import build_model
from trainer.models import ModelError, load_clip
from trainer.spec import JobSpec, ModelSpec

TEXTS = ["a diagram", "a dog", "a cat"]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export") / "model"
    export_clip(load_clip(ModelSpec(name="attune-tiny-32")), folder, card=ModelCard(spec=None, metrics={}))
    return folder


@pytest.fixture(scope="module")
def openai_towers():
    """A small model of OpenAI's making: QuickGELU, heads of width 64."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=2, width=128, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=1)
    return CLIP(48, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), np.uint8)
    return Image.fromarray(pixels).resize((183, 135), Image.Resampling.BICUBIC)


def test_tokens_are_openais():
    assert clip.tokenize("a photo of a cat")[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    tokens = clip.tokenize(["Hello,   world!", "naïve café &amp; 42"])
    assert tokens.dtype == torch.int32
    assert tokens.shape == (2, 77)
    assert torch.equal(tokens.long(), open_clip.get_tokenizer("ViT-B-32")(["Hello,   world!", "naïve café &amp; 42"]))


def test_tokens_follow_the_published_merges(real_data):
    with gzip.open(real_data / "clip_text" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    number = {"".join(pair): 512 + rank for rank, pair in enumerate(merges)}
    number |= {chr(code) + "</w>": 256 + code - 33 for code in range(33, 127)}

    def encode(word):
        parts = [*word[:-1], word[-1] + "</w>"]
        while pairs := [p for p in zip(parts, parts[1:], strict=False) if p in ranks]:
            best = min(pairs, key=ranks.get)
            joined, place = [], 0
            while place < len(parts):
                here = tuple(parts[place : place + 2]) == best
                joined.append("".join(parts[place : place + 2]) if here else parts[place])
                place += 2 if here else 1
            parts = joined
        return [number[part] for part in parts]

    text = "a black and white photograph of several unmistakable giraffes underneath umbrellas"
    expected = [49406, *(token for word in text.split() for token in encode(word)), 49407]
    assert clip.tokenize(text)[0, : len(expected)].tolist() == expected
    assert not clip.tokenize(text)[0, len(expected) :].any()


def test_a_text_that_is_too_long_is_refused_by_name_or_cut():
    long = "word " * 76
    with pytest.raises(RuntimeError, match="text 1 has 78 tokens") as refused:
        clip.tokenize(["short", long])
    assert repr(long) in str(refused.value)
    cut = clip.tokenize(["short", long], truncate=True)
    assert (cut[1] != 0).all()
    assert cut[1, -1] == 49407
    assert clip.tokenize(long[:-5]).shape == (1, 77)
    with pytest.raises(clip.TextTooLongError, match="context length 4"):
        clip.tokenize("three little words", context_length=4)


def test_an_export_answers_both_ways(export, picture):
    model, preprocess = clip.load(export, "cpu")
    assert (model.input_resolution, model.context_length, model.vocab_size) == (32, 16, 49408)
    tokens = clip.tokenize(TEXTS, context_length=model.context_length)
    images = torch.stack([preprocess(picture), preprocess(picture.rotate(90))])
    with torch.no_grad():
        per_image, per_text = model(images, tokens)
        image_features, text_features = model.encode_image(images), model.encode_text(tokens)

    plain = open_clip.create_model(f"local-dir:{export}").eval()
    with torch.no_grad():
        torch.testing.assert_close(image_features, plain.encode_image(images))
        torch.testing.assert_close(text_features, plain.encode_text(tokens.long()))
        cosines = torch.cosine_similarity(image_features[:, None], text_features[None], dim=-1)
        torch.testing.assert_close(per_image, plain.logit_scale.exp() * cosines, rtol=1e-4, atol=1e-5)
    assert per_image.shape == (2, 3)
    assert torch.equal(per_text, per_image.T)
    assert not model.training


def test_an_export_with_a_learned_prompt_reads_as_many_tokens_as_are_left(digits_manifest, tmp_path, picture):
    prompted = JobSpec.model_validate({"model": {"name": "attune-tiny-32", "text": {"prompt": {"length": 4}}}})
    trained = build_model(prompted, train=digits_manifest)
    export_clip(trained, tmp_path / "model", card=ModelCard(spec=None, metrics={}))
    model, preprocess = clip.load(tmp_path / "model", "cpu")
    tokens = clip.tokenize(TEXTS, model.context_length)
    assert torch.equal(tokens.long(), trained.tokenize(TEXTS))
    with torch.no_grad():
        expected = trained.module.eval().encode_text(trained.tokenize(TEXTS))
        torch.testing.assert_close(model.encode_text(tokens), expected)
        assert model(preprocess(picture)[None], tokens)[0].shape == (1, 3)


def test_preprocessing_is_the_models_own_whatever_holds_the_image(export, picture, tmp_path):
    _, preprocess = clip.load(str(export), "cpu")
    _, _, reference = open_clip.create_model_and_transforms(f"local-dir:{export}")
    picture.save(tmp_path / "picture.png")
    pixels = preprocess(picture)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.float32
    assert torch.equal(preprocess(tmp_path / "picture.png"), pixels)
    assert torch.equal(preprocess((tmp_path / "picture.png").read_bytes()), pixels)
    steps_of_eight_bits = (pixels - reference(picture)).abs() * 255 * 0.27
    assert steps_of_eight_bits.mean() < 2.5  # noise, made five times smaller; tests of the graphs are stricter
    assert (pixels - reference(picture.rotate(180))).abs().mean() * 255 * 0.27 > 20


def test_what_is_no_image_is_refused_by_name(export, tmp_path):
    _, preprocess = clip.load(export, "cpu")
    (tmp_path / "letter.jpg").write_text("dear reader")
    with pytest.raises(UnusableDataError, match=r"letter\.jpg: not an image"):
        preprocess(tmp_path / "letter.jpg")
    with pytest.raises(UnusableDataError, match=r"nothing\.png' cannot be read: No such file"):
        preprocess(str(tmp_path / "nothing.png"))
    with pytest.raises(UnusableDataError, match="image 1: not an image"):
        preprocess.batch([_png(), b"noise"])


def _png():
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["state dict", "TorchScript", "safetensors"])
def test_weights_in_openais_layout_tell_their_architecture(openai_towers, tmp_path, picture, kind):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    tokens = clip.tokenize(TEXTS)
    if kind == "state dict":
        torch.save(openai_towers.state_dict(), path)
    elif kind == "safetensors":
        save_file({k: v.contiguous() for k, v in openai_towers.state_dict().items()}, path)
    else:
        with torch.no_grad():
            torch.jit.trace(openai_towers, (torch.zeros(1, 3, 32, 32), tokens.long()), check_trace=False).save(path)
    model, preprocess = clip.load(path, "cpu")
    images = preprocess(picture)[None]
    assert (model.input_resolution, model.context_length) == (32, 77)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(images), openai_towers.encode_image(images))
        torch.testing.assert_close(model.encode_text(tokens), openai_towers.encode_text(tokens.long()))


def test_a_download_root_is_searched_for_openais_file_names(openai_towers, tmp_path):
    torch.save(openai_towers.state_dict(), tmp_path / "ViT-L-14-336px.pt")
    model, _ = clip.load("ViT-L/14@336px", "cpu", download_root=tmp_path)
    assert model.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 48)


def test_what_cannot_be_loaded_is_named(tmp_path, export):
    (tmp_path / "broken.pt").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"broken\.pt cannot be read"):
        clip.load(tmp_path / "broken.pt", "cpu")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="not hold weights in OpenAI's layout"):
        clip.load(tmp_path / "other.pt", "cpu")
    model, _ = clip.load(export, "cpu")
    with pytest.raises(ValueError, match=r"77 places, but the model reads 16; use tokenize\(texts, context_length=16"):
        model.encode_text(clip.tokenize(TEXTS))


def test_the_nine_models_are_listed():
    assert clip.available_models() == [
        "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
    ]  # fmt: skip


@pytest.mark.slow
def test_openais_published_figures(real_data):
    """README of https://github.com/openai/CLIP: CLIP.png is a diagram, with these probabilities."""
    folder = weights_dir()
    if folder is None or not (folder / "ViT-B-32" / "openai").is_dir():
        pytest.skip("ATTUNE_WEIGHTS_DIR holds no ViT-B-32/openai")
    expected = json.loads((real_data / "fixtures" / "expected_pretrained.json").read_text())[0]
    assert re.search("ViT-B/32", expected["model"])
    model, preprocess = clip.load("ViT-B/32", "cpu")
    image = preprocess(real_data / "fixtures" / expected["image"])[None]
    with torch.no_grad():
        logits_per_image, _ = model(image, clip.tokenize(expected["texts"]))
    np.testing.assert_allclose(
        logits_per_image.softmax(dim=-1)[0], expected["softmax_probs"], atol=expected["atol"], rtol=expected["rtol"]
    )
