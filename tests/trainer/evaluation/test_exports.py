"""Files of embeddings, features and predictions."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from trainer.evaluation.bank import feature_bank
from trainer.evaluation.datasets import evaluate_dataset
from trainer.evaluation.exports import write_features, write_predictions, write_text_embeddings
from trainer.evaluation.passes import Pass
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.scorers import class_embeddings

CPU = torch.device("cpu")
CLASS_NAMES = ("red thing", "green thing", "blue thing")


def test_class_embeddings_come_with_what_they_were_made_of(clip, tmp_path):
    embeddings = class_embeddings(clip, CLASS_NAMES, ("a {}.", "the {}"), Pass(CPU)).T.numpy()
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    for name in ("new/text.npz", "new/text.safetensors"):
        write_text_embeddings(tmp_path / name, embeddings, class_names=CLASS_NAMES, templates=("a {}.", "the {}"))
    with np.load(tmp_path / "new/text.npz") as stored:
        assert np.array_equal(stored["embeddings"], embeddings)
        assert tuple(stored["class_names"]) == CLASS_NAMES
        assert tuple(stored["templates"]) == ("a {}.", "the {}")
    with safe_open(tmp_path / "new/text.safetensors", framework="numpy") as stored:
        assert np.array_equal(stored.get_tensor("embeddings"), embeddings)
        assert json.loads(stored.metadata()["class_names"]) == list(CLASS_NAMES)


def test_features_are_not_normalised_and_have_the_label_last(clip, make_manifest, labels, tmp_path):
    manifest = make_manifest(labels=labels, class_names=CLASS_NAMES)
    features = feature_bank(clip, manifest, Pass(CPU)).features_nd.numpy()
    assert not np.allclose(np.linalg.norm(features, axis=1), 1, atol=0.01)
    for name in ("f.npz", "f.csv"):
        write_features(tmp_path / name, features, manifest=manifest, rows=np.arange(11))
    with np.load(tmp_path / "f.npz") as stored:
        assert np.array_equal(stored["features"], features)
        assert stored["labels"].tolist() == labels
        assert stored["paths"].tolist() == manifest.paths
    lines = (tmp_path / "f.csv").read_text().splitlines()
    assert lines[1].split(" ")[-1] == f"{labels[1]:.4f}"
    assert lines[1].split(" ")[0] == f"{features[1, 0]:.4f}"
    assert np.loadtxt(tmp_path / "f.csv") == pytest.approx(np.column_stack([features, labels]), abs=6e-5)


def test_each_image_has_its_prediction_in_a_row(clip, make_manifest, labels, tmp_path):
    manifest = make_manifest(labels=[*labels[:10], -1], class_names=CLASS_NAMES)
    results = evaluate_dataset(
        clip, manifest, dataset="held-out", templates=("a {}.",), device=CPU, protocol=Protocol(top_k=2)
    )
    write_predictions(tmp_path / "p.csv", results, {"held-out": manifest})
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [row["path"] for row in rows] == manifest.paths[:10]  # the last has no label
    assert [row["label"] for row in rows] == [CLASS_NAMES[label] for label in labels[:10]]
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(results[0].metrics["top1"])
    for row in rows:
        assert (row["top1"], row["top1_probability"]) == (row["predicted"], row["confidence"])
        assert row["top2"] != row["top1"]
        assert float(row["top2_probability"]) <= float(row["top1_probability"])
