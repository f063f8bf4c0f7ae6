"""What frozen features are worth: a linear classifier from a few images of each class.

The metric that the paper reports most (arXiv 2307.06304, §4.1), as big_vision computes it: features
whitened by the training images, a constant added, one-hot targets in −1 and 1, and ridge regression
in closed form.

Axes: image, dim, label.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BIAS = 100.0  # the constant that is added to the whitened features
RIDGE = 1024.0  # weight of the penalty, 2^10
SEEDS = 3

Features = Float[np.ndarray, "image dim"]
Labels = Int[np.ndarray, " image"]


class FewShot(NamedTuple):
    """Accuracy from so many images of each class, over draws of them."""

    shots: int
    mean: float
    spread: float  # standard deviation over draws
    classes: int  # that had images enough


def few_shot(
    features: Features,
    labels: Labels,
    test_features: Features,
    test_labels: Labels,
    *,
    shots: Sequence[int] = (1, 5, 10),
    seeds: int = SEEDS,
) -> list[FewShot]:
    """Top-1 on the test images by a linear classifier of `shots` training images of each class.

    Classes with fewer training images give all they have. Raises ValueError for less than two.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs two classes, not {len(classes)}")
    results = []
    for count in shots:
        found = []
        for seed in range(seeds):
            chosen = _draw(labels, classes, count, np.random.default_rng([seed, count]))
            weights = ridge_classifier(features[chosen], labels[chosen], classes)
            found.append(float((weights.predict(test_features) == test_labels).mean()))
        enough = int((np.bincount(labels)[classes] >= count).sum())
        results.append(FewShot(count, float(np.mean(found)), float(np.std(found)), enough))
    return results


def _draw(
    labels: Labels, classes: Labels, count: int, rng: np.random.Generator
) -> Int[np.ndarray, " _"]:
    return np.concatenate(
        [rng.permutation(np.flatnonzero(labels == label))[:count] for label in classes]
    )


class RidgeClassifier(NamedTuple):
    """A linear classifier of whitened features."""

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    weights: Float[np.ndarray, "dim_plus_1 label"]
    classes: Labels

    def predict(self, features: Features) -> Labels:
        return self.classes[(_whiten(features, self.mean, self.scale) @ self.weights).argmax(1)]


def ridge_classifier(features: Features, labels: Labels, classes: Labels) -> RidgeClassifier:
    """Least squares from whitened features and a constant to −1 and 1, with an ℓ2 penalty.

    Solved in whichever is smaller, images or dimensions; the answer is the same.
    """
    features = features.astype(np.float64)
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)  # a feature that is always the same says nothing
    x = _whiten(features, mean, scale)
    y = 2.0 * (labels[:, None] == classes) - 1
    images, dims = x.shape
    if images < dims:
        weights = x.T @ np.linalg.solve(x @ x.T + RIDGE * np.eye(images), y)
    else:
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(dims), x.T @ y)
    return RidgeClassifier(mean, scale, weights, classes)


def _whiten(
    features: Features, mean: Float[np.ndarray, " dim"], scale: Float[np.ndarray, " dim"]
) -> Float[np.ndarray, "image dim_plus_1"]:
    x = (features.astype(np.float64) - mean) / scale
    return np.concatenate([x, np.full((len(x), 1), BIAS)], axis=1)
