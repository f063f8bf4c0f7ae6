"""Whether a model is right as often as it says: calibration of its probabilities.

A model says probabilities by a link from its logits: `softmax` over labels, or a `sigmoid` of each
label by itself where it was trained so. All functions take the probabilities or logits of images
and their labels, and nothing of a model.

Axes: image, label, bin.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 30  # as the paper (arXiv 2307.06304, App. G)

Confidence = Float[np.ndarray, " image"]  # of the likeliest label
Link = Callable[[np.ndarray, float], np.ndarray]  # logits and temperature to probabilities
Correct = Bool[np.ndarray, " image"]  # whether that label is the true one


@dataclass(frozen=True)
class Bins:
    """Images sorted by confidence; bins without images are left out."""

    counts: Int[np.ndarray, " bin"]
    confidence: Float[np.ndarray, " bin"]  # the mean
    accuracy: Float[np.ndarray, " bin"]

    @property
    def error(self) -> float:
        """Σ share of images · |accuracy − confidence|: the ℓ1 calibration error."""
        if not len(self.counts):
            return 0.0
        gaps = np.abs(self.accuracy - self.confidence)
        return float((gaps * self.counts).sum() / self.counts.sum())


def even_bins(confidence: Confidence, correct: Correct, bins: int = BINS) -> Bins:
    """Bins of equal width in (0, 1]; their `error` is the expected calibration error (ECE).

    Guo et al. (arXiv 1706.04599), Eq. 3; Naeini et al. (2015).
    """
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return _bins(number, confidence, correct)


def adaptive_bins(confidence: Confidence, correct: Correct, bins: int = BINS) -> Bins:
    """Bins of equally many images, but for one; their `error` is the adaptive ECE.

    Nixon et al. (arXiv 1904.01685), §3.
    """
    order = np.argsort(confidence, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) * bins // max(1, len(order))
    return _bins(number, confidence, correct)


def _bins(number: Int[np.ndarray, " image"], confidence: Confidence, correct: Correct) -> Bins:
    counts = np.bincount(number)
    used = counts > 0
    means = (np.bincount(number, values)[used] / counts[used] for values in (confidence, correct))
    return Bins(counts[used], *means)


def negative_log_likelihood(
    probabilities: Float[np.ndarray, "image label"], labels: Int[np.ndarray, " image"]
) -> float:
    """Mean −log p of the true label, in nats; p is taken to be at least the smallest float."""
    if not len(labels):
        return 0.0
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(true.dtype).tiny)).mean())


def brier_score(
    probabilities: Float[np.ndarray, "image label"], labels: Int[np.ndarray, " image"]
) -> float:
    """Mean over images of Σ over labels (p − truth)²: in [0, 2] (Brier, 1950)."""
    if not len(labels):
        return 0.0
    true = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(1) - 2 * true + 1).mean())


def sigmoid_negative_log_likelihood(
    logits: Float[np.ndarray, "image label"],
    labels: Int[np.ndarray, " image"],
    temperature: float = 1.0,
) -> float:
    """Mean over images of Σ over labels −log p of what is true of each: of sigmoids, in nats."""
    if not len(labels):
        return 0.0
    scaled = logits.astype(np.float64) / temperature
    true = scaled[np.arange(len(labels)), labels]
    return float((np.logaddexp(0, scaled).sum(1) - true).mean())


def sigmoid(
    logits: Float[np.ndarray, "image label"], temperature: float = 1.0
) -> Float[np.ndarray, "image label"]:
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64) / temperature))


def softmax(
    logits: Float[np.ndarray, "image label"], temperature: float = 1.0
) -> Float[np.ndarray, "image label"]:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(1, keepdims=True)
    powers = np.exp(scaled)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(
    logits: Float[np.ndarray, "image label"],
    labels: Int[np.ndarray, " image"],
    link: Link = softmax,
) -> float:
    """The temperature in [0.05, 20] that makes the labels likeliest.

    Guo et al. (arXiv 1706.04599), §4.2. The likelihood, of softmax and of sigmoids, has one peak in
    1 / temperature, where its logarithm is concave: found by halving where the slope changes its
    sign. Raises ValueError without images.
    """
    if not len(labels):
        raise ValueError("a temperature cannot be fitted without images")
    logits = logits.astype(np.float64)
    true = logits[np.arange(len(labels)), labels]

    def slope(sharpness: float) -> float:
        expected = (link(logits, 1 / sharpness) * logits).sum(1)
        return float((true - expected).mean())

    low, high = 0.05, 20.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) >= 0 else (low, middle)
    return 1 / (low * high) ** 0.5
