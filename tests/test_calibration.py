"""Calibration metrics match torchmetrics and scikit-learn; edge cases stay finite."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import multiclass_calibration_error

from patchpack.metrics.calibration import (
    adaptive_bins,
    brier_score,
    even_bins,
    fit_temperature,
    negative_log_likelihood,
    sigmoid,
    sigmoid_negative_log_likelihood,
    softmax,
)


def random_predictions(images: int = 500, labels: int = 7, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, labels)) * 3
    noisy = logits + rng.gumbel(size=logits.shape) * 2
    return logits, noisy.argmax(1)


def confidences(logits, labels):
    p = softmax(logits)
    return p.max(1), p.argmax(1) == labels


@pytest.mark.parametrize("bins", [1, 10, 30])
def test_ece_matches_torchmetrics(bins):
    logits, labels = random_predictions()
    reference = multiclass_calibration_error(
        torch.tensor(softmax(logits)), torch.tensor(labels), 7, n_bins=bins, norm="l1"
    )
    assert even_bins(*confidences(logits, labels), bins).error == pytest.approx(float(reference))


def test_adaptive_bins_have_equal_counts():
    bins = adaptive_bins(*confidences(*random_predictions(images=605)), bins=30)
    assert set(bins.counts) == {20, 21} and bins.counts.sum() == 605
    assert (np.diff(bins.confidence) > 0).all()


def test_nll_and_brier_match_scikit_learn():
    logits, labels = random_predictions()
    p = softmax(logits)
    expected = log_loss(labels, p, labels=range(7))
    assert negative_log_likelihood(p, labels) == pytest.approx(expected)
    truth = np.eye(7)[labels]
    expected = sum(brier_score_loss(truth[:, k], p[:, k]) for k in range(7))
    assert brier_score(p, labels) == pytest.approx(expected)


def test_fit_temperature_minimizes_nll():
    logits, labels = random_predictions()
    best = minimize_scalar(
        lambda t: negative_log_likelihood(softmax(logits, t), labels), bounds=(0.05, 20),
        method="bounded", options={"xatol": 1e-6},
    )  # fmt: skip
    assert fit_temperature(logits, labels) == pytest.approx(best.x, rel=1e-3)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * best.x, rel=1e-3)


def test_sigmoid_nll_matches_bce_and_its_temperature_minimizes_it():
    logits, labels = random_predictions()
    truth = torch.eye(7, dtype=torch.float64)[torch.from_numpy(labels)]
    expected = binary_cross_entropy_with_logits(torch.from_numpy(logits), truth) * 7
    assert sigmoid_negative_log_likelihood(logits, labels) == pytest.approx(float(expected))
    assert sigmoid(logits, 2.0) == pytest.approx(torch.from_numpy(logits / 2).sigmoid().numpy())
    best = minimize_scalar(
        lambda t: sigmoid_negative_log_likelihood(logits, labels, t), bounds=(0.05, 20),
        method="bounded", options={"xatol": 1e-6},
    )  # fmt: skip
    assert fit_temperature(logits, labels, sigmoid) == pytest.approx(best.x, rel=1e-3)


def test_a_model_that_is_always_correct_or_always_wrong():
    logits = np.eye(4)[[0, 1, 2, 3] * 5] * 5
    correct, wrong = np.arange(20) % 4, (np.arange(20) + 1) % 4
    assert even_bins(*confidences(logits, correct)).error == pytest.approx(
        1 - softmax(logits).max()
    )
    assert even_bins(*confidences(logits, wrong)).error == pytest.approx(softmax(logits).max())
    assert fit_temperature(logits, correct) == pytest.approx(0.05)  # the lower limit
    assert fit_temperature(logits, wrong) == pytest.approx(20)


def test_confident_and_wrong_has_a_finite_nll():
    p = np.array([[1.0, 0.0]])
    assert np.isfinite(negative_log_likelihood(p, np.array([1]))) and brier_score(p, [1]) == 2


def test_one_image_and_zero_images():
    one = np.array([[1.0, 0.0]])
    assert even_bins(one[:, 0], np.array([True])).error == 0
    assert brier_score(one, np.array([0])) == 0 == negative_log_likelihood(one, np.array([0]))
    with pytest.raises(ValueError, match="without images"):
        fit_temperature(np.empty((0, 3)), np.empty(0, int))


def test_tied_confidences_are_binned_once():
    confidence = np.full(90, 0.5)
    correct = np.arange(90) % 2 == 0
    assert even_bins(confidence, correct).counts.tolist() == [90]
    assert adaptive_bins(confidence, correct).counts.tolist() == [3] * 30
    edges = np.array([0.0, 1 / 30, 1.0])
    assert even_bins(edges, np.array([True, True, True])).counts.tolist() == [2, 1]
