"""Calibration metrics: ECE, adaptive ECE, NLL, Brier score, and temperature scaling.

A link turns logits into probabilities: `softmax` over labels, or an independent `sigmoid` per
label for models trained with sigmoid loss. All functions take arrays and need no model.

Axes: image, label, bin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 30  # as in NaViT (arXiv 2307.06304, App. G)

Confidence = Float[np.ndarray, " image"]  # probability of the predicted label, in [0, 1]
Link = Callable[[np.ndarray, float], np.ndarray]  # (logits, temperature) -> probabilities
Correct = Bool[np.ndarray, " image"]  # the predicted label is the true one


@dataclass(frozen=True)
class Bins:
    """Images grouped by confidence, in ascending order. Empty bins are omitted."""

    counts: Int[np.ndarray, " bin"]  # images per bin
    confidence: Float[np.ndarray, " bin"]  # mean confidence, in [0, 1]
    accuracy: Float[np.ndarray, " bin"]  # share of correct predictions, in [0, 1]

    @property
    def error(self) -> float:
        """Return the ℓ1 calibration error, Σ (share of images) · |accuracy − confidence|.

        In [0, 1]; lower is better. NaN without images, and where a confidence is not finite.
        """
        if not len(self.counts):
            return math.nan
        gaps = np.abs(self.accuracy - self.confidence)
        return float((gaps * self.counts).sum() / self.counts.sum())


def even_bins(confidence: Confidence, correct: Correct, bins: int = BINS) -> Bins:
    """Return bins of equal width in (0, 1]; their `error` is the expected calibration error (ECE).

    Guo et al. (arXiv 1706.04599), Eq. 3; Naeini et al. (2015). ECE is in [0, 1]; lower is better.
    """
    upper = np.nan_to_num(np.ceil(confidence * bins)).astype(np.int64)  # NaN: in the first bin
    bin_index = np.clip(upper - 1, 0, bins - 1)
    return _bins(bin_index, confidence, correct)


def adaptive_bins(confidence: Confidence, correct: Correct, bins: int = BINS) -> Bins:
    """Return bins of equal image count (within one image); their `error` is the adaptive ECE.

    Nixon et al. (arXiv 1904.01685), §3. Adaptive ECE is in [0, 1]; lower is better.
    """
    order = np.argsort(confidence, kind="stable")
    bin_index = np.empty(len(order), np.int64)
    bin_index[order] = np.arange(len(order)) * bins // max(1, len(order))
    return _bins(bin_index, confidence, correct)


def _bins(bin_index: Int[np.ndarray, " image"], confidence: Confidence, correct: Correct) -> Bins:
    counts = np.bincount(bin_index)
    used = counts > 0
    means = (
        np.bincount(bin_index, values)[used] / counts[used] for values in (confidence, correct)
    )
    return Bins(counts[used], *means)


def negative_log_likelihood(
    probabilities: Float[np.ndarray, "image label"], labels: Int[np.ndarray, " image"]
) -> float:
    """Return the mean of −log p(true label) over images, in nats.

    In [0, ∞); lower is better. p is clipped to the smallest normal float, so the result is finite.
    NaN without images, and for a single label.
    """
    if not len(labels) or probabilities.shape[1] < 2:
        return math.nan
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(true.dtype).tiny)).mean())


def brier_score(
    probabilities: Float[np.ndarray, "image label"], labels: Int[np.ndarray, " image"]
) -> float:
    """Return the multi-class Brier score: the mean over images of Σ over labels (p − one-hot)².

    Brier (1950). In [0, 2] for softmax probabilities; lower is better. NaN without images, and for
    a single label.
    """
    if not len(labels) or probabilities.shape[1] < 2:
        return math.nan
    true = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(1) - 2 * true + 1).mean())


def sigmoid_negative_log_likelihood(
    logits: Float[np.ndarray, "image label"],
    labels: Int[np.ndarray, " image"],
    temperature: float = 1.0,
) -> float:
    """Return the mean over images of the binary cross-entropy summed over labels, in nats.

    The true label is the only positive one. In [0, ∞); lower is better. NaN without images.
    """
    if not len(labels):
        return math.nan
    scaled = logits.astype(np.float64) / temperature
    true = scaled[np.arange(len(labels)), labels]
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return float((np.logaddexp(0, scaled).sum(1) - true).mean())


def sigmoid(
    logits: Float[np.ndarray, "image label"], temperature: float = 1.0
) -> Float[np.ndarray, "image label"]:
    """Return sigmoid(logits / temperature), in float64; labels are independent."""
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0, -logits.astype(np.float64) / temperature))


def softmax(
    logits: Float[np.ndarray, "image label"], temperature: float = 1.0
) -> Float[np.ndarray, "image label"]:
    """Return softmax(logits / temperature), in float64; each row sums to 1."""
    scaled = logits.astype(np.float64) / temperature
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN
        scaled -= scaled.max(1, keepdims=True)
    powers = np.exp(scaled)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(
    logits: Float[np.ndarray, "image label"],
    labels: Int[np.ndarray, " image"],
    link: Link = softmax,
) -> float:
    """Return the temperature in [0.05, 20] that minimizes the NLL of the labels.

    Guo et al. (arXiv 1706.04599), §4.2. The log likelihood of softmax and of sigmoids is concave in
    1 / temperature, so bisection on the sign of its slope finds the single maximum. Raise
    ValueError without images, and for logits that are not finite.
    """
    if not len(labels):
        raise ValueError("a temperature cannot be fitted without images")
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("a temperature cannot be fitted to logits that are not finite")
    true = logits[np.arange(len(labels)), labels]

    def slope(inverse_temperature: float) -> float:
        expected = (link(logits, 1 / inverse_temperature) * logits).sum(1)
        return float((true - expected).mean())

    low, high = 0.05, 20.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) >= 0 else (low, middle)
    return 1 / (low * high) ** 0.5
