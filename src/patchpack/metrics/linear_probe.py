"""Few-shot linear evaluation of frozen features: ridge regression on a few images per class.

The few-shot metric of NaViT (arXiv 2307.06304, §4.1), as big_vision computes it: features are
standardized with the training mean and standard deviation, a constant feature is appended, targets
are one-hot in {−1, 1}, and ridge regression is solved in closed form.

Axes: image, dim, label.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from patchpack.metrics.undefined import ratio

BIAS = 100.0  # value of the constant feature
RIDGE = 1024.0  # weight of the ℓ2 penalty, 2^10
SEEDS = 3  # draws of training images

Features = Float[np.ndarray, "image dim"]
Labels = Int[np.ndarray, " image"]


class FewShot(NamedTuple):
    """Few-shot top-1 accuracy, in [0, 1], over several draws of the training images."""

    shots: int  # training images per class
    mean: float  # over draws; higher is better
    spread: float  # standard deviation over draws
    classes: int  # classes with at least `shots` training images


def few_shot(
    features: Features,
    labels: Labels,
    test_features: Features,
    test_labels: Labels,
    *,
    shots: Sequence[int] = (1, 5, 10),
    seeds: int = SEEDS,
) -> list[FewShot]:
    """Return the test top-1 of a ridge classifier fitted on `shots` images per class.

    shots  training images per class; one result per entry
    seeds  draws of training images per result

    A class with fewer training images contributes all of them. Raise ValueError with fewer than two
    classes, and for features that are not finite. Without test images the mean is NaN.
    """
    check_finite(features, test_features)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"few-shot evaluation needs at least two classes, not {len(classes)}")
    results = []
    for count in shots:
        accuracies = []
        for seed in range(seeds):
            rows = _draw(labels, classes, count, np.random.default_rng([seed, count]))
            classifier = ridge_classifier(features[rows], labels[rows], classes)
            correct = classifier.predict(test_features) == test_labels
            accuracies.append(ratio(float(correct.sum()), len(correct)))
        enough = int((np.bincount(labels)[classes] >= count).sum())
        mean, spread = float(np.mean(accuracies)), float(np.std(accuracies))
        results.append(FewShot(count, mean, spread, enough))
    return results


def check_finite(*features: Features) -> None:
    """Raise ValueError where a feature is not finite: a probe of them is of nothing."""
    for x in features:
        if wrong := int((~np.isfinite(x)).any(1).sum()):
            raise ValueError(
                f"the features of {wrong} of {len(x)} images are not finite: the model's weights "
                "are damaged or have diverged"
            )


def _draw(
    labels: Labels, classes: Labels, count: int, rng: np.random.Generator
) -> Int[np.ndarray, " _"]:
    return np.concatenate(
        [rng.permutation(np.flatnonzero(labels == label))[:count] for label in classes]
    )


class RidgeClassifier(NamedTuple):
    """A linear classifier on standardized features."""

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]  # standard deviation; 1 for a constant feature
    weights: Float[np.ndarray, "dim_plus_1 label"]
    classes: Labels  # class index of each output

    def predict(self, features: Features) -> Labels:
        """Return the class index with the highest output for each image."""
        return self.classes[
            (_standardize(features, self.mean, self.scale) @ self.weights).argmax(1)
        ]


def ridge_classifier(features: Features, labels: Labels, classes: Labels) -> RidgeClassifier:
    """Fit ridge regression from standardized features and a constant to targets in {−1, 1}.

    The primal or the dual system is solved, whichever is smaller (dims or images); the solution is
    the same.
    """
    features = features.astype(np.float64)
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)  # constant features
    x = _standardize(features, mean, scale)
    y = 2.0 * (labels[:, None] == classes) - 1
    images, dims = x.shape
    if images < dims:
        weights = x.T @ np.linalg.solve(x @ x.T + RIDGE * np.eye(images), y)
    else:
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(dims), x.T @ y)
    return RidgeClassifier(mean, scale, weights, classes)


def _standardize(
    features: Features, mean: Float[np.ndarray, " dim"], scale: Float[np.ndarray, " dim"]
) -> Float[np.ndarray, "image dim_plus_1"]:
    x = (features.astype(np.float64) - mean) / scale
    return np.concatenate([x, np.full((len(x), 1), BIAS)], axis=1)
