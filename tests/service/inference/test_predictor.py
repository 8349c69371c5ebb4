"""The real worker process against plain open_clip and timm, each with its own preprocessing.

Pixels differ from Pillow's by about one grey level (see tests/dali_pipelines). That moved probabilities of the tiny
model by up to 0.005 and its features by 0.001, or 0.0035 where every pixel is black or white; bilinear in place of
bicubic resizing moves the features of every picture by more than 0.005.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from service.inference.failures import BadImage
from service.inference.images import EncodedImage, ImageLimits, images_from_bytes
from service.inference.pool import WORKER_COMMAND
from service.inference.protocol import Head, Question

open_clip = pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

PROBABILITY_TOLERANCE = 0.01
FEATURE_TOLERANCE = 0.004

CLASSES = ["rose", "tulip", "fire truck", "dog"]
TEMPLATES = ["a photo of a {}.", "a drawing of the {}."]


class Reference:
    """Plain open_clip: its own loader, transform and tokenizer, and the zero-shot head written out."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self.module, _, self.transform = open_clip.create_model_and_transforms(name)
        self.module.eval()
        self.tokenize = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def image_features(self, images: list[bytes]) -> torch.Tensor:
        pixels = torch.stack([self.transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])
        return self.module.encode_image(pixels, normalize=True)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> torch.Tensor:
        return self.module.encode_text(self.tokenize(texts), normalize=True)

    def probabilities(self, images: list[bytes], class_names: list[str], templates: list[str]) -> torch.Tensor:
        head = []
        for name in class_names:
            mean = self.text_features([template.replace("{}", name) for template in templates]).mean(dim=0)
            head.append(mean / mean.norm())
        logits = self.module.logit_scale.exp() * self.image_features(images) @ torch.stack(head).T
        return logits.softmax(dim=-1).detach()


@pytest.fixture(scope="session")
def reference(tiny_clip) -> Reference:
    return Reference(tiny_clip)


def full_rows(answers, num_classes: int) -> np.ndarray:
    """(B, C) probabilities in class order."""
    rows = np.full((len(answers), num_classes), np.nan)
    for row, predictions in zip(rows, answers, strict=True):
        for predicted in predictions:
            row[predicted.index] = predicted.probability
    return rows


def checked(images: list[bytes]) -> list[EncodedImage]:
    return images_from_bytes(images, limits=ImageLimits(max_bytes=10**6, max_pixels=10**6, max_images=64))


def features_of(rows: list[bytes]) -> np.ndarray:
    return np.stack([np.frombuffer(row, "<f4") for row in rows])


@pytest.mark.slow
def test_the_real_worker_answers_as_plain_open_clip_does(run_gateway, record, tiny_clip, reference, encoded):
    kinds = [("PNG", "RGB"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("PNG", "L"), ("WEBP", "RGB")]
    images = [encoded(seed, format, mode) for seed, (format, mode) in enumerate(kinds)]
    texts = ["a dog", "a photo of a fire truck, seen from above"]

    async def scenario(gateway):
        model = record(tiny_clip)
        zero_shot = await gateway.zero_shot(model, checked(images), class_names=CLASSES, templates=TEMPLATES, top_k=9)
        top_two = await gateway.zero_shot(model, checked(images), class_names=CLASSES, templates=TEMPLATES, top_k=2)
        return zero_shot, top_two, await gateway.embed(model, [*texts, *checked(images[1:2])])

    zero_shot, top_two, features = run_gateway(scenario, command=WORKER_COMMAND, inference_max_batch_size=4)
    expected = reference.probabilities(images, CLASSES, TEMPLATES).numpy()
    np.testing.assert_allclose(full_rows(zero_shot, len(CLASSES)), expected, atol=PROBABILITY_TOLERANCE)
    assert expected.std(axis=0).max() > 0.05, "the images must not all look the same to the model"
    for row, best in zip(zero_shot, top_two, strict=True):
        assert [p.probability for p in row] == sorted((p.probability for p in row), reverse=True)
        assert best == row[:2]
        assert all(CLASSES[p.index] == p.label for p in row)
    vectors = features_of(features.rows)
    np.testing.assert_allclose(vectors[:2], reference.text_features(texts), atol=1e-5)
    np.testing.assert_allclose(vectors[2:], reference.image_features(images[1:2]), atol=FEATURE_TOLERANCE)
    assert features.num_tokens == int((reference.tokenize(texts) != 0).sum())


@pytest.mark.slow
def test_the_real_worker_batches_survives_kill_9_and_names_bad_images(run_gateway, record, tiny_clip, encoded):
    registry = CollectorRegistry()

    async def scenario(gateway):
        model = record(tiny_clip, class_names=["cat", "dog"])
        await gateway.classify(model, checked([encoded()]))
        images = [encoded(seed) for seed in range(12)]
        images[5] = encoded(5, "JPEG", size=(200, 200))[:1500]
        asked = [gateway.classify(model, checked([encoded(), image])) for image in images]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        num_batches = registry.get_sample_value("attune_inference_batch_size_count")
        os.kill(gateway.pool.workers["a-model"].pid, 9)
        again = await gateway.classify(model, checked([encoded(3)]))
        return answers, num_batches - 1, again

    answers, num_batches, again = run_gateway(
        scenario, command=WORKER_COMMAND, registry=registry, inference_batch_timeout_ms=50
    )
    assert num_batches == 1, "12 concurrent requests of 2 images fit into one batch of 32"
    bad = answers.pop(5)
    assert isinstance(bad, BadImage)
    assert (bad.status, bad.param) == (400, "images.1")
    assert bad.message.startswith("image 1 cannot be decoded: ")
    assert all(len(answer) == 2 for answer in answers)
    assert full_rows(again, 2) == pytest.approx(full_rows(answers[3][1:], 2), abs=1e-4)


@pytest.fixture(scope="session")
def predictor(tiny_clip):
    from service.inference.predictor import Predictor

    return Predictor(tiny_clip, device="cpu", max_batch_size=8)


def test_sixteen_bit_and_alpha_are_read_as_pillow_reads_them(predictor, reference, picture):
    images = []
    for mode in ("I;16", "RGBA", "LA", "1"):
        buffer = io.BytesIO()
        if mode == "I;16":
            grey = np.asarray(picture(mode="L"), dtype=np.uint16) * 257
            Image.fromarray(grey).save(buffer, "PNG")
        else:
            picture(mode=mode).save(buffer, "PNG")
        images.append(buffer.getvalue())
    answers, _ = predictor.answer([Question("image_features", images)], {})
    np.testing.assert_allclose(features_of(answers[0].rows), reference.image_features(images), atol=FEATURE_TOLERANCE)


def test_questions_of_a_batch_get_their_own_images_and_heads(predictor, reference, encoded):
    images = [encoded(seed) for seed in range(5)]
    heads = [Head(("cat", "dog", "bird"), ("a {}",)), Head(("sun", "moon"), ("the {}", "a {}"))]
    questions = [
        Question("zero_shot", images[:2], head=heads[0].key, top_k=3),
        Question("text_features", texts=["hello"]),
        Question("image_features", images[2:3], first_image=7),
        Question("zero_shot", images[3:], head=heads[1].key, top_k=2),
    ]
    answers, timings = predictor.answer(questions, {head.key: head for head in heads})
    assert [len(answer.rows) for answer in answers] == [2, 1, 1, 2]
    for answer, own, head in ((answers[0], images[:2], heads[0]), (answers[3], images[3:], heads[1])):
        expected = reference.probabilities(own, list(head.class_names), list(head.templates)).numpy()
        rows = np.array([[p for _, _, p in sorted(row, key=lambda entry: entry[1])] for row in answer.rows])
        np.testing.assert_allclose(rows, expected, atol=PROBABILITY_TOLERANCE)
    assert timings.decode_s > 0
    assert timings.model_s > 0


def test_bad_images_fail_their_own_questions_only(predictor, encoded):
    truncated = encoded(format="JPEG", size=(200, 200))[:1500]
    questions = [
        Question("image_features", [encoded(0)]),
        Question("image_features", [encoded(1), truncated], first_image=10),
        Question("image_features", [b"no image"]),
        Question("image_features", [encoded(2)]),
    ]
    answers, _ = predictor.answer(questions, {})
    problems = [answer.problem and (answer.problem.code, answer.problem.index) for answer in answers]
    assert problems == [None, ("bad_image", 11), ("bad_image", 0), None]
    alone, _ = predictor.answer(questions[3:], {})
    np.testing.assert_allclose(features_of(answers[3].rows), features_of(alone[0].rows), atol=1e-5)


def test_a_head_is_built_once_and_kept(predictor, encoded, monkeypatch):
    from service.inference import predictor as module

    calls = []
    real = module.zero_shot_weights

    def counted(*arguments, **options):
        calls.append(arguments[2])
        return real(*arguments, **options)

    monkeypatch.setattr(module, "zero_shot_weights", counted)
    head = Head(("kept", "once"), ("a {}",))
    question = Question("zero_shot", [encoded()], head=head.key)
    first, _ = predictor.answer([question], {head.key: head})
    second, _ = predictor.answer([question, question], {head.key: head})
    assert calls == [("kept", "once")]
    assert first[0].rows[0][0][:2] == second[1].rows[0][0][:2]


def test_a_head_that_is_late_is_given_up_and_goes_on_at_the_next_try(predictor, reference, encoded, monkeypatch):
    monkeypatch.setattr("service.inference.predictor._PROMPTS_A_STEP", 2)
    head = Head(("one", "two", "three", "four", "five"), ("a {}", "the {}"))
    question = Question("zero_shot", [encoded()], head=head.key, top_k=5, time_left_s=0.0)
    late, _ = predictor.answer([question], {head.key: head})
    assert late[0].problem.code == "deadline"
    in_time, _ = predictor.answer([Question(**{**vars(question), "time_left_s": 60.0})], {head.key: head})
    expected = reference.probabilities([encoded()], list(head.class_names), list(head.templates))[0]
    for _, index, probability in in_time[0].rows[0]:
        assert probability == pytest.approx(float(expected[index]), abs=PROBABILITY_TOLERANCE)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Path:
    """A tiny timm classifier as Attune exports it, with random weights."""
    from safetensors.torch import save_file
    from timm.models import VisionTransformer

    torch.manual_seed(1)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    module = VisionTransformer(**size, num_classes=3)
    torch.nn.init.normal_(module.head.weight, std=0.5)
    folder = tmp_path_factory.mktemp("classifier")
    save_file(module.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_base_patch32_224",
        "model_args": size,
        "num_classes": 3,
        "pretrained_cfg": {
            "num_classes": 3, "input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip
    preprocess = {
        "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest",
        "exif": "ignore",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    described = {"task": "classifier", "class_names": ["cat", "dog", "bird"], "preprocess": preprocess}
    (folder / "attune.json").write_text(json.dumps(described))
    return folder


def test_a_classifier_answers_as_plain_timm_does(classifier, encoded):
    import timm

    from service.inference.predictor import Predictor

    images = [encoded(seed, "JPEG") for seed in range(3)]
    answers, _ = Predictor(classifier, device="cpu").answer([Question("classify", images, top_k=3)], {})
    module = timm.create_model(f"local-dir:{classifier}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    with torch.no_grad():
        logits = module(torch.stack([transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]))
    expected = logits.softmax(dim=-1).numpy()
    rows = np.array([[p for _, _, p in sorted(row, key=lambda entry: entry[1])] for row in answers[0].rows])
    np.testing.assert_allclose(rows, expected, atol=PROBABILITY_TOLERANCE)
    assert {label for label, *_ in answers[0].rows[0]} == {"cat", "dog", "bird"}


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path):
    from service.inference.predictor import Predictor

    with pytest.raises(ValueError, match="no open_clip model"):
        Predictor(tmp_path, device="cpu")


@pytest.mark.skipif("ATTUNE_STARTER_MODEL" not in os.environ, reason="ATTUNE_STARTER_MODEL names no model")
@pytest.mark.slow
def test_a_trained_model_answers_as_plain_open_clip_does(encoded):
    from service.inference.predictor import Predictor

    folder = Path(os.environ["ATTUNE_STARTER_MODEL"])
    images = [encoded(seed, size=(96, 64)) for seed in range(8)]
    head = Head(("airplane", "automobile", "bird", "cat"), ("a photo of a {}.",))
    question = Question("zero_shot", images, head=head.key, top_k=4)
    answers, _ = Predictor(folder, device="cpu").answer([question], {head.key: head})
    expected = Reference(folder).probabilities(images, list(head.class_names), list(head.templates)).numpy()
    rows = np.array([[p for _, _, p in sorted(row, key=lambda entry: entry[1])] for row in answers[0].rows])
    np.testing.assert_allclose(rows, expected, atol=0.01)


def test_the_control_plane_side_imports_no_torch():
    code = "import sys, service.inference.gateway, service.inference.worker, service.routers.inference; " + (
        "print([name for name in ('torch', 'open_clip', 'timm', 'nvidia.dali', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
