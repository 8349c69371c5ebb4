"""Evaluation of whole data sets against one image and one prompt at a time."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.evaluation.bank import feature_bank
from trainer.evaluation.datasets import evaluate_dataset
from trainer.evaluation.metrics import NonFiniteOutputError
from trainer.evaluation.passes import Pass
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.results import Result
from trainer.export import export_clip
from trainer.model_card import ModelCard
from trainer.models import clip_classifier
from trainer.spec_checks.metrics import METRICS

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
    accuracies_found = {name: result.metrics[name] for name in ("top1", "top5", "mean_per_class")}
    assert accuracies_found == pytest.approx({"top1": top1, "top5": 1.0, "mean_per_class": mean_per_class})
    logits = clip.module.logit_scale.exp().item() * slow_scores(clip, slow_image_features())
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert result.metrics["cross_entropy"] == pytest.approx(expected, abs=1e-3)
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
    for found, expected in zip(run(clip, manifest, batch_size=batch_size), run(clip, manifest), strict=True):
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)
        assert found.per_class == expected.per_class


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


def test_every_metric_is_measured_and_none_without_a_name(clip, make_manifest, labels, captions):
    places = {"domains": [0, 1] * 5 + [-1], "domain_names": ["photo", "sketch"]}
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES, captions=captions, **places)
    bank = feature_bank(clip, manifest, Pass(CPU))
    tasks = ("zero_shot", "retrieval", "linear_probe", "knn")
    results = run(clip, manifest, protocol=Protocol(tasks=tasks, neighbours=3), bank=bank)
    assert {name for result in results for name in result.metrics} == set(METRICS)
    assert all(result.task in METRICS[name].tasks for result in results for name in result.metrics)
    classifier = clip_classifier(clip, class_names=CLASS_NAMES)
    (own,) = run(classifier, manifest)
    assert set(own.metrics) == {name for name, metric in METRICS.items() if "classification" in metric.tasks}


def test_results_are_broken_down_by_domain(clip, make_manifest, labels):
    domains = np.array([0, 1, 1, 0, 1, 2, 0, 1, -1, 0, 2])
    names = ["photo", "sketch", "clipart", "none of these"]
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES, domains=domains, domain_names=names)
    (result,) = run(clip, manifest)
    correct = result.outcomes.correct
    own = [float(correct[domains == number].mean()) for number in range(3)]
    assert [(row["name"], row["num_samples"]) for row in result.per_domain] == [
        ("photo", 4),
        ("sketch", 4),
        ("clipart", 2),
    ]
    assert [row["accuracy"] for row in result.per_domain] == own
    assert result.metrics["worst_domain"] == min(own)
    assert result.metrics["mean_per_domain"] == pytest.approx(np.mean(own))
    (part,) = run(clip, manifest.select([5, 10, 0]))
    assert [row["num_samples"] for row in part.per_domain] == [1, 2]
    (without,) = run(clip, make_manifest(labels=labels, class_names=CLASS_NAMES))
    assert without.per_domain == []
    assert "worst_domain" not in without.metrics


def test_features_of_a_training_set_know_its_own_images(clip, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    for model in (clip, clip_classifier(clip, class_names=CLASS_NAMES)):
        bank = feature_bank(model, manifest, Pass(CPU, batch_size=4))
        protocol = Protocol(tasks=("linear_probe", "knn"), neighbours=1, probe_c=1e6)
        probe, nearest = run(model, manifest, protocol=protocol, bank=bank)
        assert (probe.task, probe.main_metric) == ("linear_probe", 1.0)
        assert (nearest.task, nearest.main_metric) == ("knn", 1.0)  # each image is its own nearest neighbour


def test_images_are_encoded_once_for_all_tasks(clip, make_manifest, labels, monkeypatch):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    bank = feature_bank(clip, manifest, Pass(CPU))
    seen = []
    encode = clip.module.encode_image

    def counted(images, *rest):
        seen.append(len(images))
        return encode(images, *rest)

    monkeypatch.setattr(clip.module, "encode_image", counted)
    run(clip, manifest, protocol=Protocol(tasks=("zero_shot", "linear_probe", "knn"), neighbours=3), bank=bank)
    assert seen == [4, 4, 3]


def test_training_classes_may_be_numbered_otherwise(clip, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    names = ("unseen", "blue thing", "red thing", "green thing")
    train = make_manifest(labels=[{0: 2, 1: 3, 2: 1}[label] for label in labels], class_names=names)
    protocol = Protocol(tasks=("knn",), neighbours=1)
    (nearest,) = run(clip, manifest, protocol=protocol, bank=feature_bank(clip, train, Pass(CPU)))
    assert nearest.main_metric == 1.0


def test_tasks_that_are_not_possible_are_left_out(clip, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    assert run(clip, manifest, protocol=Protocol(tasks=("retrieval", "linear_probe"))) == []


@pytest.fixture
def constant_classifier(clip):
    """Prefers the first class, then the last, whatever it sees."""
    classifier = clip_classifier(clip, class_names=("green thing", "other", "blue thing", "red thing"))
    torch.nn.init.zeros_(classifier.module.head.weight)
    with torch.no_grad():
        classifier.module.head.bias.copy_(torch.tensor([4.0, 1.0, 2.0, 3.0]))
    return classifier


@pytest.mark.parametrize(
    ("subset", "over", "num_samples", "top1"),
    [
        (None, "subset", 11, 3 / 11),
        (("red thing", "blue thing"), "subset", 8, 6 / 8),  # green may not be said, so red is
        (("red thing", "blue thing"), "all", 8, 0.0),  # green is said
        ("data", "subset", 11, 3 / 11),
    ],
)
def test_a_class_subset_limits_images_and_predictions(
    constant_classifier, make_manifest, labels, subset, over, num_samples, top1
):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    (result,) = run(constant_classifier, manifest, protocol=Protocol(class_subset=subset, predict_over=over))
    assert (result.num_samples, result.metrics["top1"]) == (num_samples, pytest.approx(top1))
    names = [row["name"] for row in result.per_class]
    wanted = {None: constant_classifier.class_names, "data": CLASS_NAMES}.get(subset, subset)
    assert sorted(names) == sorted(wanted)
    everything = subset is None or over == "all"
    allowed = [n for n, name in enumerate(constant_classifier.class_names) if everything or name in wanted]
    logits = torch.tensor([4.0, 1.0, 2.0, 3.0])
    log_probabilities = logits - logits[allowed].logsumexp(0)
    counted = [label for label in labels if subset in (None, "data") or CLASS_NAMES[label] in subset]
    losses = [-log_probabilities[{0: 3, 1: 0, 2: 2}[label]] for label in counted]
    assert result.metrics["cross_entropy"] == pytest.approx(float(sum(losses) / len(losses)), rel=1e-6)


def test_images_outside_the_subset_keep_their_rows(constant_classifier, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    (result,) = run(constant_classifier, manifest, protocol=Protocol(class_subset=("red thing", "blue thing"), top_k=9))
    assert result.outcomes.rows.tolist() == [row for row, label in enumerate(labels) if label != 1]
    assert result.outcomes.top_classes[0].tolist() == [3, 2, 0, 1]  # what may not be said comes last
    assert result.outcomes.top_confidences[0, 2:].tolist() == [0.0, 0.0]


def test_a_subset_names_classes_that_there_are(clip, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    with pytest.raises(UnusableSpecError, match="names 'pink thing'; the classes are 'red thing', 'green"):
        run(clip, manifest, protocol=Protocol(class_subset=("red thing", "pink thing")))
    with pytest.raises(UnusableSpecError, match="must name two classes or more, got 'red thing'"):
        run(clip, manifest, protocol=Protocol(class_subset=("red thing",)))


def test_zero_shot_predictions_may_range_over_more_classes(clip, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    more = ("pink thing", *reversed(CLASS_NAMES), "grey thing")
    (alone,) = run(clip, manifest)
    (among_all,) = run(clip, manifest, protocol=Protocol(classes=more))
    assert among_all.metrics["cross_entropy"] > alone.metrics["cross_entropy"]
    (again,) = run(clip, manifest, protocol=Protocol(classes=more, class_subset="data"))
    assert again.metrics == pytest.approx(alone.metrics, abs=1e-6)
    with pytest.raises(UnusableDataError, match="the list of classes does not know: 'blue thing'"):
        run(clip, manifest, protocol=Protocol(classes=more[2:]))


def test_the_mirror_images_prediction_counts_as_much(clip, make_manifest, labels, images_folder, tmp_path):
    for path in images_folder.iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / path.name)
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    mirrored = replace(manifest, roots=(str(tmp_path),))
    plain, other = (run(clip, data, protocol=Protocol(top_k=3))[0].outcomes for data in (manifest, mirrored))
    (flipped,) = run(clip, manifest, protocol=Protocol(views="flip", top_k=3))

    def by_class(outcomes):
        table = np.zeros((11, 3))
        np.put_along_axis(table, outcomes.top_classes, outcomes.top_confidences, axis=1)
        return table

    mean = (by_class(plain) + by_class(other)) / 2
    assert by_class(flipped.outcomes) == pytest.approx(mean, abs=1e-6)
    assert not np.allclose(by_class(plain), mean, atol=1e-6)


def test_crops_are_of_larger_images(clip, make_manifest, labels):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    (cropped,) = run(clip, manifest, protocol=Protocol(views="five_crop"))
    (plain,) = run(clip, manifest)
    assert cropped.num_samples == 11
    assert cropped.metrics["cross_entropy"] != plain.metrics["cross_entropy"]


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
    expected = run(clip, manifest)
    for rank in range(world_size):
        found = [Result(**result) for result in json.loads((tmp_path / f"out-{rank}.json").read_text())]
        assert [result.num_samples for result in found] == [len(labels), len(labels)]  # nothing counts twice
        assert [result.per_class for result in found] == [result.per_class for result in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.metrics == pytest.approx(other.metrics, abs=1e-5)
