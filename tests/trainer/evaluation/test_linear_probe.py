"""Linear probes against scikit-learn itself, on real digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trainer.errors import UnusableDataError
from trainer.evaluation.linear_probe import (
    LP_FT_STRENGTHS,
    fit_logistic,
    published_clip_probe,
    sweep_logistic,
)


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    return features.astype(np.float32), labels.astype(np.int64)


def logits(features, weight_cd, bias_c):
    return torch.from_numpy(features).double() @ weight_cd.double().T + bias_c.double()


def test_the_layer_has_the_decision_function_of_scikit_learn(digits):
    features, labels = digits[0][:300], digits[1][:300]
    weight_cd, bias_c = fit_logistic(torch.from_numpy(features), torch.from_numpy(labels), c=0.01, max_iterations=500)
    reference = LogisticRegression(C=0.01, max_iter=500).fit(features, labels)
    assert weight_cd.shape == (10, 64)
    np.testing.assert_allclose(logits(features, weight_cd, bias_c), reference.decision_function(features), atol=1e-4)


def test_the_published_probe_is_c_0_316_with_1000_iterations(digits):
    features, labels = digits[0][:200] / 16, digits[1][:200]
    weight_cd, bias_c = published_clip_probe(features, labels)
    reference = LogisticRegression(C=0.316, max_iter=1000).fit(features, labels)
    np.testing.assert_allclose(weight_cd, reference.coef_, atol=1e-6)
    np.testing.assert_allclose(bias_c, reference.intercept_, atol=1e-6)


def test_two_classes_get_opposite_halves_with_the_same_probabilities(digits):
    chosen = digits[1] < 2
    features, labels = digits[0][chosen] / 16, digits[1][chosen]
    weight_cd, bias_c = fit_logistic(features, labels, c=1.0)
    reference = LogisticRegression(C=1.0, max_iter=1000).fit(features, labels)
    assert torch.equal(weight_cd[0], -weight_cd[1])
    np.testing.assert_allclose(
        logits(features, weight_cd, bias_c).softmax(dim=1), reference.predict_proba(features), atol=1e-5
    )


def test_a_class_without_samples_gets_zeros(digits):
    chosen = np.isin(digits[1], (0, 2, 3))
    weight_cd, bias_c = fit_logistic(digits[0][chosen], digits[1][chosen], c=0.1, num_classes=5)
    assert weight_cd.shape == (5, 64)
    assert not weight_cd[[1, 4]].any()
    assert not bias_c[[1, 4]].any()
    assert weight_cd[[0, 2, 3]].abs().sum(dim=1).min() > 0


def test_the_published_sweep_has_50_strengths_from_1e_7_to_1e2():
    assert len(LP_FT_STRENGTHS) == 50
    assert LP_FT_STRENGTHS[0] == pytest.approx(1e-7)
    assert LP_FT_STRENGTHS[-1] == pytest.approx(1e2)
    ratios = np.divide(LP_FT_STRENGTHS[1:], LP_FT_STRENGTHS[:-1])
    np.testing.assert_allclose(ratios, 10 ** (9 / 49))


def test_a_sweep_of_one_strength_applies_to_the_features_as_given(digits):
    features, labels = digits[0][:400] + 5, digits[1][:400]
    probe = sweep_logistic(
        features, labels, held_out_features_md=features, held_out_labels_m=labels, strengths=(0.5,), max_iterations=100
    )
    mean, std = float(features.mean(dtype=np.float64)), float(features.std(dtype=np.float64))
    standardised = (features - mean) / std
    reference = LogisticRegression(C=0.5, max_iter=100).fit(standardised, labels)
    np.testing.assert_allclose(
        logits(features, probe.weight_cd, probe.bias_c), reference.decision_function(standardised), atol=1e-3
    )


def test_the_sweep_keeps_the_first_of_the_most_accurate_strengths(digits):
    features, labels = digits[0], digits[1]
    probe = sweep_logistic(
        features[:300],
        labels[:300],
        held_out_features_md=features[300:900],
        held_out_labels_m=labels[300:900],
        strengths=(1e-7, 1e-3, 1e-1, 1e2),
    )
    best = int(np.argmax(probe.accuracies))
    assert probe.strength == (1e-7, 1e-3, 1e-1, 1e2)[best]
    assert probe.accuracy == max(probe.accuracies) > 0.8
    assert probe.accuracies[0] < probe.accuracy
    predicted = logits(features[300:900], probe.weight_cd, probe.bias_c).argmax(dim=1)
    assert float(np.mean(predicted.numpy() == labels[300:900])) == pytest.approx(probe.accuracy)


def test_one_class_is_refused(digits):
    with pytest.raises(UnusableDataError, match="two classes or more, got 1"):
        fit_logistic(digits[0][:5], np.zeros(5), c=1.0)


def test_constant_features_are_refused():
    features, labels = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    with pytest.raises(UnusableDataError, match="all of them are the same number"):
        sweep_logistic(features, labels, held_out_features_md=features, held_out_labels_m=labels)
