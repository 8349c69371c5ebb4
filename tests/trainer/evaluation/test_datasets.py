"""Evaluation of whole data sets against one image and one prompt at a time."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from trainer.errors import UnusableDataError
from trainer.evaluation.datasets import evaluate_dataset
from trainer.evaluation.metrics import NonFiniteOutputError
from trainer.export import export_clip
from trainer.model_card import ModelCard
from trainer.models import clip_classifier

CPU = torch.device("cpu")
CLASS_NAMES = ("red thing", "green thing", "blue thing")
TEMPLATES = ("a {}.", "the {}!")


def run(model, manifest, **options):
    options = {"dataset": "held-out", "templates": TEMPLATES, "device": CPU, "batch_size": 4, **options}
    return evaluate_dataset(model, manifest, **options)


def accuracies(scores, labels):
    """Slow top-1, and mean over classes, from (N, C) scores."""
    hits = [int(row.argmax()) == label for row, label in zip(scores, labels, strict=True)]
    by_class = [[hit for hit, label in zip(hits, labels, strict=True) if label == c] for c in sorted(set(labels))]
    return sum(hits) / len(hits), sum(sum(own) / len(own) for own in by_class) / len(by_class)


def slow_scores(clip, image_features):
    clip.module.eval()
    columns = []
    for name in CLASS_NAMES:
        with torch.no_grad():
            texts = [clip.module.encode_text(clip.tokenize([t.format(name)]))[0] for t in TEMPLATES]
        mean = sum(text / text.norm() for text in texts)
        columns.append([float(feature @ mean / mean.norm()) for feature in image_features])
    clip.module.train()
    return torch.tensor(columns).T


def test_labelled_images_are_measured_zero_shot(clip, make_manifest, labels, slow_image_features):
    (result,) = run(clip, make_manifest(labels=labels, class_names=CLASS_NAMES))
    top1, mean_per_class = accuracies(slow_scores(clip, slow_image_features()), labels)
    assert (result.task, result.dataset, result.num_samples) == ("zero_shot", "held-out", 11)
    assert result.metrics == pytest.approx({"top1": top1, "top5": 1.0, "mean_per_class": mean_per_class})
    assert [(row["name"], row["num_samples"]) for row in result.per_class] == [
        ("red thing", 6),
        ("green thing", 3),
        ("blue thing", 2),
    ]
    assert 0 < result.main_metric < 1


def test_images_without_a_label_do_not_count(clip, make_manifest, labels, slow_image_features):
    partly = [*labels[:8], -1, -1, -1]
    (result,) = run(clip, make_manifest(labels=partly, class_names=CLASS_NAMES))
    top1, _ = accuracies(slow_scores(clip, slow_image_features())[:8], labels[:8])
    assert result.num_samples == 8
    assert result.metrics["top1"] == pytest.approx(top1)


def test_captioned_images_are_measured_by_retrieval(clip, make_manifest, captions, slow_image_features):
    (result,) = run(clip, make_manifest(captions=captions))
    images = slow_image_features()
    clip.module.eval()
    owners = [row for row, own in enumerate(captions) for _ in own]
    with torch.no_grad():
        texts = [clip.module.encode_text(clip.tokenize([text]))[0] for own in captions for text in own]
    similarity = torch.tensor([[float(image @ text / text.norm()) for text in texts] for image in images])
    for k in (1, 5, 10):
        to_text = [owners[t] == i for i in range(11) for t in similarity[i].argsort(descending=True)[:k].tolist()]
        found = [any(to_text[i * k : (i + 1) * k]) for i in range(11)]
        assert result.metrics[f"image_to_text_r{k}"] == pytest.approx(sum(found) / 11)
        to_image = [owners[t] in similarity[:, t].argsort(descending=True)[:k].tolist() for t in range(len(texts))]
        assert result.metrics[f"text_to_image_r{k}"] == pytest.approx(sum(to_image) / len(texts))
    assert (result.task, result.num_samples) == ("retrieval", 11)
    assert result.main_metric == pytest.approx(sum(list(result.metrics.values())[:6]) / 6)


def test_labels_and_captions_together_give_both(clip, make_manifest, labels, captions):
    results = run(clip, make_manifest(labels=labels, class_names=CLASS_NAMES, captions=captions))
    assert [result.task for result in results] == ["zero_shot", "retrieval"]


def test_a_classifier_is_measured_by_its_own_classes_in_any_order(clip, make_manifest, labels):
    classifier = clip_classifier(clip, class_names=("blue thing", "other", "red thing", "green thing"))
    torch.nn.init.normal_(classifier.module.head.weight)
    (result,) = run(classifier, make_manifest(labels=labels, class_names=CLASS_NAMES))
    assert result.task == "classification"
    renumbered = [{0: 2, 1: 3, 2: 0}[label] for label in labels]
    same_order = make_manifest(labels=renumbered, class_names=classifier.class_names)
    (expected,) = run(classifier, same_order)
    assert result == expected
    assert [row["num_samples"] for row in result.per_class] == [2, 0, 6, 3]


def test_a_classifier_gives_the_logits_of_its_head(clip, make_manifest, labels):
    classifier = clip_classifier(clip, class_names=CLASS_NAMES)
    torch.nn.init.zeros_(classifier.module.head.weight)
    with torch.no_grad():
        classifier.module.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    (result,) = run(classifier, make_manifest(labels=labels, class_names=CLASS_NAMES))
    assert result.metrics["top1"] == pytest.approx(2 / 11)  # the two images of the third class


def test_classes_that_a_classifier_does_not_know_are_named(clip, make_manifest, labels):
    classifier = clip_classifier(clip, class_names=("red thing", "green thing", "yellow thing"))
    with pytest.raises(UnusableDataError, match=r"does not know: 'blue thing'; .* lacks: 'yellow thing'"):
        run(classifier, make_manifest(labels=labels, class_names=CLASS_NAMES))
    with pytest.raises(UnusableDataError, match="has no labels"):
        run(classifier, make_manifest())


def test_data_without_labels_and_captions_is_refused(clip, make_manifest):
    with pytest.raises(UnusableDataError, match="'held-out' has neither labels nor captions"):
        run(clip, make_manifest())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(clip, make_manifest, labels, captions, batch_size):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES, captions=captions)
    assert run(clip, manifest, batch_size=batch_size) == run(clip, manifest)


def test_evaluation_has_no_side_effects(clip, make_manifest, labels, captions):
    state = {name: tensor.clone() for name, tensor in clip.module.state_dict().items()}
    random_state = torch.get_rng_state()
    run(clip, make_manifest(labels=labels, class_names=CLASS_NAMES, captions=captions))
    assert all(part.training for part in clip.module.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.module.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.module.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_broken_model_is_no_result(clip, make_manifest, labels):
    with torch.no_grad():
        clip.module.visual.proj.fill_(float("nan"))
    with pytest.raises(NonFiniteOutputError, match="not a number for 11 of 11 images"):
        run(clip, make_manifest(labels=labels, class_names=CLASS_NAMES))


def test_half_precision_weights_are_fed_their_own_type(clip, make_manifest, labels):
    half = replace(clip, module=clip.module.bfloat16())
    (result,) = run(half, make_manifest(labels=labels, class_names=CLASS_NAMES))
    assert result.num_samples == 11


def test_autocast_computes_nearly_the_same(clip, make_manifest, captions, monkeypatch):
    seen = []
    linear = torch.nn.functional.linear

    def watched(*args):
        out = linear(*args)
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    run(clip, make_manifest(captions=captions))
    assert torch.bfloat16 not in seen
    run(clip, make_manifest(captions=captions), precision="amp_bf16")
    assert torch.bfloat16 in seen


RANK_PROGRAM = """
import json, sys, torch
from dali_pipelines.manifest import Manifest
from trainer import distributed
from trainer.evaluation.datasets import evaluate_dataset
from trainer.models import load_clip
from trainer.spec import ModelSpec

export, manifest, templates, world_size, output = sys.argv[1:]
device = distributed.join()
rank = torch.distributed.get_rank()
results = evaluate_dataset(
    load_clip(ModelSpec(name=f"local-dir:{export}")), Manifest.load(manifest), dataset="held-out",
    templates=json.loads(templates), device=device, rank=rank, world_size=int(world_size), batch_size=2,
)
with open(f"{output}-{rank}.json", "w") as file:
    json.dump([result.to_dict() for result in results], file)
distributed.leave()
"""


@pytest.mark.slow
def test_ranks_agree_with_one_process(clip, make_manifest, labels, captions, tmp_path):
    """Eleven images on two ranks: the shares are uneven, so one rank's padding must be dropped."""
    world_size = 2
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES, captions=captions)
    manifest.save(tmp_path / "data.arrow")
    export_clip(clip, tmp_path / "export", card=ModelCard(spec=None, metrics={}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM, tmp_path / "export", tmp_path / "data.arrow"]
            + [json.dumps(TEMPLATES), str(world_size), tmp_path / "out"],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in range(world_size)
    ]
    try:
        assert [process.wait(timeout=240) for process in ranks] == [0] * world_size
    finally:
        for process in ranks:
            process.kill()
    expected = [result.to_dict() for result in run(clip, manifest)]
    for rank in range(world_size):
        assert json.loads((tmp_path / f"out-{rank}.json").read_text()) == expected
