"""Losses as pure functions: tensors in, a sum out, and the count of what it runs over.

Packs hold different numbers of images, on every rank and at every step, so a mean is only right
when the sum of all losses is divided by the count of all images. So no loss divides by that; the
training loop does, once, by the global count. Those of pixels and boxes are terms, which the heads
sum and count.

Axes: image, label.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Loss(NamedTuple):
    """A loss not yet divided."""

    sum: Float[Tensor, ""]
    count: int  # of what the sum runs over


def softmax_cross_entropy(
    logits: Float[Tensor, "image label"],
    labels: Int[Tensor, " image"],
    label_smoothing: float = 0.0,
) -> Loss:
    """Softmax cross-entropy of each image with its label; `label_smoothing` is spread evenly."""
    total = F.cross_entropy(
        logits.float(), labels, reduction="sum", label_smoothing=label_smoothing
    )
    return Loss(total, len(labels))


def sigmoid_cross_entropy(
    logits: Float[Tensor, "image label"], labels: Int[Tensor, " image"]
) -> Loss:
    """One binary cross-entropy per label, summed over labels (the paper's fine-tuning, App. C)."""
    targets = torch.zeros_like(logits, dtype=torch.float32)
    targets[torch.arange(len(labels), device=labels.device), labels] = 1
    total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    return Loss(total, len(labels))


def pixel_cross_entropy(
    scores: Float[Tensor, "label height width"],
    mask: Int[Tensor, "height width"],
    class_weights: Float[Tensor, " label"],
    ignored: int,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy, each pixel's times the weight of its class, summed over one image."""
    return F.cross_entropy(
        scores[None], mask[None], class_weights, ignore_index=ignored, reduction="sum"
    )


def dice_loss(
    scores: Float[Tensor, "label height width"], mask: Int[Tensor, "height width"], ignored: int
) -> Float[Tensor, ""]:
    """1 − 2·Σ p·y / (Σ p + Σ y), its mean over the classes that the mask of one image holds.

    The soft dice of Milletari et al. (arXiv 1606.04797), with sums for their squares.
    """
    known = (mask != ignored)[None]
    labels = torch.arange(len(scores), device=mask.device)[:, None, None]
    truth, p = (labels == mask) & known, scores.softmax(0) * known
    there = truth.sum((1, 2))
    dice = 2 * (p * truth).sum((1, 2)) / (p.sum((1, 2)) + there).clamp(min=1)
    held = there > 0
    return ((1 - dice) * held).sum() / held.sum().clamp(min=1)


def focal_terms(
    scores: Float[Tensor, "*any"], told: Float[Tensor, "*any"], alpha: float, gamma: float
) -> Float[Tensor, "*any"]:
    """−α (1 − p)^γ log p of what is there, −(1 − α) p^γ log(1 − p) of what is not; p = σ(score).

    Lin et al. (arXiv 1708.02002), Eq. 5, from logits and truths 0 or 1.
    """
    entropy = F.binary_cross_entropy_with_logits(scores, told, reduction="none")
    p = scores.sigmoid()
    wrong = told * (1 - p) + (1 - told) * p
    return (told * alpha + (1 - told) * (1 - alpha)) * wrong**gamma * entropy
