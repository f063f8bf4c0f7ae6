"""Losses as pure functions: they return a sum and the count of its terms.

Packs have different numbers of images on every rank and at every step, so a mean over all images is
the sum of all losses divided by the global count. Losses therefore do not divide; the training loop
does, once. Pixel and box losses are terms, which the heads sum and count.

Axes: image, label.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Loss(NamedTuple):
    """A loss before the division by its count."""

    sum: Float[Tensor, ""]
    count: int  # terms of the sum: images, pairs, pixels or objects


def softmax_cross_entropy(
    logits: Float[Tensor, "image label"],
    labels: Int[Tensor, " image"],
    label_smoothing: float = 0.0,
) -> Loss:
    """Softmax cross-entropy per image, with uniform label smoothing."""
    total = F.cross_entropy(
        logits.float(), labels, reduction="sum", label_smoothing=label_smoothing
    )
    return Loss(total, len(labels))


def sigmoid_cross_entropy(
    logits: Float[Tensor, "image label"], labels: Int[Tensor, " image"]
) -> Loss:
    """Binary cross-entropy per label, summed over labels (NaViT's fine-tuning, App. C)."""
    targets = torch.zeros_like(logits, dtype=torch.float32)
    targets[torch.arange(len(labels), device=labels.device), labels] = 1
    total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    return Loss(total, len(labels))


def pixel_cross_entropy(
    scores: Float[Tensor, "label height width"],
    mask: Int[Tensor, "height width"],
    class_weights: Float[Tensor, " label"],
    ignore_index: int,
) -> Float[Tensor, ""]:
    """Class-weighted softmax cross-entropy, summed over the pixels of one image."""
    return F.cross_entropy(
        scores[None], mask[None], class_weights, ignore_index=ignore_index, reduction="sum"
    )


def dice_loss(
    scores: Float[Tensor, "label height width"],
    mask: Int[Tensor, "height width"],
    ignore_index: int,
) -> Float[Tensor, ""]:
    """1 − 2·Σ p·y / (Σ p + Σ y), averaged over the classes in the mask of one image.

    The soft dice loss of Milletari et al. (arXiv 1606.04797), with sums instead of squares.
    """
    labeled = (mask != ignore_index)[None]
    labels = torch.arange(len(scores), device=mask.device)[:, None, None]
    truth, p = (labels == mask) & labeled, scores.softmax(0) * labeled
    pixels = truth.sum((1, 2))
    dice = 2 * (p * truth).sum((1, 2)) / (p.sum((1, 2)) + pixels).clamp(min=1)
    present = pixels > 0
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def focal_terms(
    scores: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], alpha: float, gamma: float
) -> Float[Tensor, "*any"]:
    """−α (1 − p)^γ log p for targets of 1, −(1 − α) p^γ log(1 − p) for targets of 0; p = σ(score).

    Focal loss (Lin et al., arXiv 1708.02002, Eq. 5) from logits.
    """
    entropy = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    p = scores.sigmoid()
    error = targets * (1 - p) + (1 - targets) * p
    return (targets * alpha + (1 - targets) * (1 - alpha)) * error**gamma * entropy
