"""Few-shot ridge classifiers match scikit-learn's ridge regression; edge cases."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from patchpack.metrics.linear_probe import BIAS, RIDGE, few_shot, ridge_classifier


def clusters(images: int, dim: int = 6, classes: int = 4, seed: int = 0, spread: float = 0.3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    return centers[labels] + spread * rng.normal(size=(images, dim)), labels


@pytest.mark.parametrize("images", [4, 60], ids=["fewer than dimensions", "more"])
def test_ridge_weights_match_scikit_learn(images):
    features, labels = clusters(images)
    classes = np.unique(labels)
    classifier = ridge_classifier(features, labels, classes)
    x = (features - features.mean(0)) / features.std(0)
    x = np.concatenate([x, np.full((images, 1), BIAS)], 1)
    expected = Ridge(alpha=RIDGE, fit_intercept=False).fit(
        x, 2.0 * (labels[:, None] == classes) - 1
    )
    np.testing.assert_allclose(classifier.weights.T, expected.coef_, rtol=1e-6, atol=1e-9)


def test_more_shots_give_higher_accuracy():
    train, test = clusters(400, spread=0.8), clusters(300, seed=1, spread=0.8)
    one, ten = few_shot(*train, *test, shots=(1, 10))
    assert one.shots == 1 and ten.classes == 4 and 0.25 < one.mean < ten.mean > 0.8
    assert few_shot(*train, *test, shots=(10,)) == [ten]


def test_a_class_with_fewer_images_contributes_all_of_them():
    features, labels = clusters(60)
    rare = np.append(np.flatnonzero(labels != 3), np.flatnonzero(labels == 3)[:2])
    (result,) = few_shot(features[rare], labels[rare], *clusters(50, seed=1), shots=(5,))
    assert result.classes == 3 and result.mean > 0.6


def test_constant_features_are_ignored():
    features, labels = clusters(60)
    features = np.concatenate([features, np.ones((60, 1))], axis=1)
    test, test_labels = clusters(50, seed=1)
    test = np.concatenate([test, np.full((50, 1), 7.0)], axis=1)
    assert few_shot(features, labels, test, test_labels, shots=(5,))[0].mean > 0.9


def test_one_class_raises():
    with pytest.raises(ValueError, match="two classes, not 1"):
        few_shot(np.ones((3, 2)), np.zeros(3, int), np.ones((1, 2)), np.zeros(1, int))
