"""Fairness metrics: attribute probes on frozen features, accuracy by group, gaps, paired tests.

Probes are linear: ridge regression in closed form or logistic regression. Accuracy is computed for
each group and each intersection of two groups, with bootstrap intervals.

Axes: image, dim.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from patchpack.metrics.linear_probe import check_finite, ridge_classifier

MIN_GROUP_SIZE = 10  # images; smaller groups are omitted
RESAMPLES = 1000  # bootstrap resamples

Features = Float[np.ndarray, "image dim"]
Correct = Bool[np.ndarray, " image"]


def probe(
    train: Features,
    train_labels: Int[np.ndarray, " image"],
    test: Features,
    kind: str,
) -> Int[np.ndarray, " image"]:
    """Fit a linear probe on training features and return its labels for the test images.

    kind  "ridge" (closed form, see `ridge_classifier`) or "logistic" (scikit-learn, standardized
          features, C = 0.1; needs the extra `fairness`)

    Raise ValueError with fewer than two classes, and for features that are not finite; ImportError
    without scikit-learn.
    """
    check_finite(train, test)
    classes = np.unique(train_labels)
    if len(classes) < 2:
        raise ValueError("a probe needs at least two values of an attribute")
    if kind == "ridge":
        return ridge_classifier(train, train_labels, classes).predict(test)
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            f"logistic probes need pip install 'patchpack[fairness]' ({error})"
        ) from error
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return np.asarray(model.fit(train, train_labels).predict(test))


@dataclass(frozen=True)
class Group:
    """Accuracy of one group, in [0, 1], with its 95 % bootstrap interval [low, high]."""

    images: int
    accuracy: float
    low: float
    high: float


def groups(
    correct: Correct, attributes: Mapping[str, Sequence[str]], min_group_size: int = MIN_GROUP_SIZE
) -> dict[str, Group]:
    """Return the accuracy of each attribute value and each pair of values of two attributes.

    attributes  the value of each image, by attribute name

    Keys are "attribute value" and "value, value". Groups with fewer than min_group_size images are
    omitted.
    """
    columns = {name: np.array(values) for name, values in attributes.items()}
    masks = {
        f"{name} {value}": columns[name] == value
        for name in columns
        for value in np.unique(columns[name])
    }
    for a, b in combinations(columns, 2):
        for x in np.unique(columns[a]):
            for y in np.unique(columns[b]):
                masks[f"{x}, {y}"] = (columns[a] == x) & (columns[b] == y)
    return {
        name: _group(correct[mask]) for name, mask in masks.items() if mask.sum() >= min_group_size
    }


def _group(correct: Correct) -> Group:
    low, high = bootstrap(correct)
    return Group(len(correct), float(correct.mean()), low, high)


def bootstrap(
    correct: Correct, share: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of an accuracy (Efron, 1979), in [0, 1].

    share  coverage of the interval

    NaN without images.
    """
    if not len(correct):
        return math.nan, math.nan
    # The number of correct images in a resample of n images is binomial.
    means = np.random.default_rng(0).binomial(len(correct), correct.mean(), resamples) / len(
        correct
    )
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Gap:
    """Accuracy gap between the best and the worst group of an attribute; lower is fairer."""

    best: str
    worst: str
    points: float  # accuracy difference, in [0, 1]
    low: float  # 95 % bootstrap interval of the difference
    high: float


def gap(
    correct: Correct, values: Sequence[str], min_group_size: int = MIN_GROUP_SIZE
) -> Gap | None:
    """Return the accuracy gap between the best and the worst value of an attribute.

    values  the attribute value of each image

    None if fewer than two groups have min_group_size images. The bootstrap resamples the two groups
    independently.
    """
    column = np.array(values)
    by_value = {
        v: correct[column == v] for v in np.unique(column) if (column == v).sum() >= min_group_size
    }
    if len(by_value) < 2:
        return None
    best = max(by_value, key=lambda v: by_value[v].mean())
    worst = min(by_value, key=lambda v: by_value[v].mean())
    rng = np.random.default_rng(0)
    resampled = [
        rng.binomial(len(by_value[v]), by_value[v].mean(), RESAMPLES) / len(by_value[v])
        for v in (best, worst)
    ]
    low, high = np.quantile(resampled[0] - resampled[1], [0.025, 0.975])
    points = float(by_value[best].mean() - by_value[worst].mean())
    return Gap(str(best), str(worst), points, float(low), float(high))


def signed_rank(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sided p-value of the Wilcoxon signed-rank test on paired scores, in (0, 1].

    NaViT compares models over attributes and runs with it (arXiv 2307.06304, App. H). A low p-value
    rejects equal scores. 1.0 if no pair differs, NaN for undefined scores. Raise ValueError on
    empty or unequal lengths.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} scores cannot be paired with {len(b)}")
    if not np.isfinite([a, b]).all():
        return math.nan
    if np.allclose(a, b):
        return 1.0
    try:
        from scipy.stats import wilcoxon
    except ImportError as error:
        raise ImportError(
            f"the signed-rank test needs pip install 'patchpack[fairness]' ({error})"
        ) from error
    return float(wilcoxon(np.asarray(a), np.asarray(b)).pvalue)
