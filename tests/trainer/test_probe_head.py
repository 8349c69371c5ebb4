"""A probe as the first head of a classifier."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dali_pipelines.manifest import Manifest
from trainer import data_sources
from trainer.errors import UnusableDataError
from trainer.models import clip_classifier, load_clip
from trainer.probe_head import head_inputs, held_out_rows, init_probe_head
from trainer.resolve import resolve
from trainer.spec import ImageFolderSource, ModelSpec


def manifest_of(folder) -> Manifest:
    manifest, _ = data_sources.read_source(
        ImageFolderSource(path=str(folder)), on_bad_sample="fail", exif="ignore", num_threads=1
    )
    return manifest


@pytest.fixture(scope="module")
def train(digits):
    return manifest_of(digits / "train")


@pytest.fixture(scope="module")
def heldout(digits):
    return manifest_of(digits / "heldout")


def classifier_on(train, features="pooled"):
    torch.manual_seed(0)
    clip = load_clip(ModelSpec(name="attune-tiny-32"))
    return clip_classifier(clip, class_names=train.class_names, features=features)


@pytest.fixture
def classifier(train):
    return classifier_on(train)


def spec_with(**probe):
    return resolve(
        spec={
            "model": "attune-tiny-32",
            "objective": {"name": "classification", "head": "probe", "probe": probe},
            "data": {"train": "digits", "decoder": {"num_threads": 1}},
        }
    )


def logits(classifier, manifest, spec):
    """(N, C) by way of the whole classifier."""
    from dali_pipelines.loader import EvalLoader

    with torch.no_grad():
        loader = EvalLoader(manifest, preprocess=classifier.preprocess, batch_size=64, num_threads=1)
        found = torch.cat([classifier.module.eval()(batch.images) for batch in loader])
    return found[: len(manifest)]


@pytest.mark.parametrize("features", ["pooled", "projected", "mean_patches"])
def test_the_classifier_starts_with_the_decision_function_of_the_probe(train, heldout, features):
    classifier = classifier_on(train, features)
    spec = spec_with(strengths=(0.1,), max_iterations=300)
    init_probe_head(classifier, train=train, validation=heldout, spec=spec)

    features_nf, labels_n = head_inputs(classifier, train, dataset="train", spec=spec)
    mean, std = features_nf.double().mean().item(), features_nf.double().std(correction=0).item()
    reference = LogisticRegression(C=0.1, max_iter=300).fit((features_nf.numpy() - mean) / std, labels_n)
    held_features_nf, _ = head_inputs(classifier, heldout, dataset="validation", spec=spec)
    expected = reference.decision_function((held_features_nf.numpy() - mean) / std)
    np.testing.assert_allclose(logits(classifier, heldout, spec), expected, atol=2e-3)


def test_the_strength_that_does_best_on_validation_data_wins(classifier, train, heldout, capsys):
    spec = spec_with(strengths=(1e-7, 1.0))
    init_probe_head(classifier, train=train, validation=heldout, spec=spec)
    right = logits(classifier, heldout, spec).argmax(dim=1).numpy() == heldout.labels
    assert right.mean() > 0.3  # of ten classes, with random features
    assert f"linear probe: C 1 of 2, {100 * right.mean():.2f} % of 80 held-out images" in capsys.readouterr().out


def test_without_validation_data_a_part_of_the_training_data_chooses_and_all_of_them_fit(classifier, train, capsys):
    spec = spec_with(strengths=(1e-7, 1.0), held_out=0.25)
    init_probe_head(classifier, train=train, validation=None, spec=spec)
    assert "C 1 of 2," in (told := capsys.readouterr().out)
    assert "% of 60 held-out images" in told
    features_nf, labels_n = head_inputs(classifier, train, dataset="train", spec=spec)
    mean, std = features_nf.double().mean().item(), features_nf.double().std(correction=0).item()
    reference = LogisticRegression(C=1.0, max_iter=200).fit((features_nf.numpy() - mean) / std, labels_n)
    expected = reference.decision_function((features_nf.numpy() - mean) / std)
    np.testing.assert_allclose(logits(classifier, train, spec), expected, atol=2e-2)


def test_the_published_sweep_is_the_default(classifier, train, heldout, capsys):
    init_probe_head(classifier, train=train, validation=heldout, spec=spec_with(max_iterations=2))
    assert " of 50, " in capsys.readouterr().out


def test_held_out_rows_are_a_share_of_each_class_by_the_seed():
    labels = np.repeat([0, 1, 2, 3], [10, 5, 2, 1])
    rows = held_out_rows(labels, share=0.2, seed=3)
    assert np.bincount(labels[rows], minlength=4).tolist() == [2, 1, 1, 0]
    assert np.array_equal(rows, held_out_rows(labels, share=0.2, seed=3))
    assert any(not np.array_equal(rows, held_out_rows(labels, share=0.2, seed=seed)) for seed in range(4, 9))
    most = held_out_rows(labels, share=0.99, seed=3)
    assert np.bincount(labels[~most], minlength=4).min() >= 1


def test_one_image_a_class_cannot_choose_a_strength():
    with pytest.raises(UnusableDataError, match=r"one training image only; name data\.validation"):
        held_out_rows(np.arange(4), share=0.5, seed=0)


def test_the_tower_and_its_training_flags_are_left_alone(classifier, train, heldout):
    classifier.module.train()
    before = {name: tensor.clone() for name, tensor in classifier.module.trunk.state_dict().items()}
    init_probe_head(classifier, train=train, validation=heldout, spec=spec_with(strengths=(0.1,)))
    assert classifier.module.training
    for name, tensor in classifier.module.trunk.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_later_attempt_reads_the_probe_instead_of_fitting_again(train, heldout, tmp_path, capsys):
    first, again = classifier_on(train), classifier_on(train)
    spec, file = spec_with(strengths=(0.1,)), tmp_path / "probe_head.safetensors"
    init_probe_head(first, train=train, validation=heldout, spec=spec, file=file)
    assert "linear probe: C " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    init_probe_head(again, train=train, validation=heldout, spec=spec, file=file)
    assert "linear probe" not in capsys.readouterr().out
    for name, tensor in first.module.head.state_dict().items():
        assert torch.equal(again.module.head.state_dict()[name], tensor)
