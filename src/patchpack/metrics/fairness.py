"""Do frozen features carry an attribute, and equally well for all groups of people?

Linear probes, in closed form and by logistic regression; accuracy of each group and of each
intersection of groups, with intervals from resampling; and a signed-rank test between two models.

Axes: image, dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from patchpack.metrics.linear_probe import ridge_classifier

LEAST = 10  # images of a group from which on its accuracy is told
RESAMPLES = 1000

Features = Float[np.ndarray, "image dim"]
Correct = Bool[np.ndarray, " image"]


def probe(
    train: Features,
    train_labels: Int[np.ndarray, " image"],
    test: Features,
    kind: str,
) -> Int[np.ndarray, " image"]:
    """Labels of the test images by a linear probe: "ridge", in closed form, or "logistic"."""
    classes = np.unique(train_labels)
    if len(classes) < 2:
        raise ValueError("a probe needs two values of an attribute")
    if kind == "ridge":
        return ridge_classifier(train, train_labels, classes).predict(test)
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            f"logistic probes: pip install 'patchpack[fairness]' ({error})"
        ) from error
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return np.asarray(model.fit(train, train_labels).predict(test))


@dataclass(frozen=True)
class Group:
    """How many of a group are right, and an interval of 95 % for their share."""

    images: int
    accuracy: float
    low: float
    high: float


def groups(
    correct: Correct, attributes: Mapping[str, Sequence[str]], least: int = LEAST
) -> dict[str, Group]:
    """Accuracy of every value of every attribute, and of every pair of values of two."""
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
    return {name: _group(correct[mask]) for name, mask in masks.items() if mask.sum() >= least}


def _group(correct: Correct) -> Group:
    low, high = bootstrap(correct)
    return Group(len(correct), float(correct.mean()), low, high)


def bootstrap(
    correct: Correct, share: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The interval of a mean, from resampling its images with replacement (Efron, 1979)."""
    if not len(correct):
        return 0.0, 0.0
    # A resample of n images of which k are right has a binomial number of right ones.
    means = np.random.default_rng(0).binomial(len(correct), correct.mean(), resamples) / len(
        correct
    )
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Gap:
    """The best group of an attribute, the worst, and how far apart they are."""

    best: str
    worst: str
    points: float
    low: float
    high: float


def gap(correct: Correct, values: Sequence[str], least: int = LEAST) -> Gap | None:
    """Between the best and the worst value of an attribute; None where fewer than two are large.

    The interval is of the difference between these two groups, resampled apart.
    """
    column = np.array(values)
    shares = {v: correct[column == v] for v in np.unique(column) if (column == v).sum() >= least}
    if len(shares) < 2:
        return None
    best = max(shares, key=lambda v: shares[v].mean())
    worst = min(shares, key=lambda v: shares[v].mean())
    rng = np.random.default_rng(0)
    drawn = [
        rng.binomial(len(shares[v]), shares[v].mean(), RESAMPLES) / len(shares[v])
        for v in (best, worst)
    ]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    points = float(shares[best].mean() - shares[worst].mean())
    return Gap(str(best), str(worst), points, float(low), float(high))


def signed_rank(a: Sequence[float], b: Sequence[float]) -> float:
    """p of the Wilcoxon signed-rank test that two models' paired figures are alike, two-sided.

    As the paper compares models over attributes and runs (arXiv 2307.06304, App. H). 1 where no
    pair differs.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} figures cannot be paired with {len(b)}")
    if np.allclose(a, b):
        return 1.0
    try:
        from scipy.stats import wilcoxon
    except ImportError as error:
        raise ImportError(f"this test: pip install 'patchpack[fairness]' ({error})") from error
    return float(wilcoxon(np.asarray(a), np.asarray(b)).pvalue)
