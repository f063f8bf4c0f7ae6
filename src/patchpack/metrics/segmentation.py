"""Semantic segmentation metrics: mean IoU, per-class IoU and pixel accuracy.

Pixel counts are summed over images and processes; the metrics are ratios of the sums. So each
pixel has the same weight and large images count more than small ones, as in PASCAL VOC, Cityscapes
and ADE20K.

Axes: label, height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ConfusionMatrix:
    """Additive pixel counts; `a + b` merges images or processes."""

    confusion: Int[Tensor, "label label"]  # pixels [true, predicted]
    images: int = 0

    @staticmethod
    def none(num_classes: int) -> "ConfusionMatrix":
        """Return the counts of zero images."""
        return ConfusionMatrix(torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        return ConfusionMatrix(self.confusion + other.confusion, self.images + other.images)

    @property
    def iou(self) -> Float[Tensor, " label"]:
        """IoU of each class: TP / (TP + FP + FN) over pixels, in [0, 1]; higher is better.

        The segmentation metric of PASCAL VOC (Everingham et al., IJCV 2010). NaN for a class that
        neither the ground truth nor the predictions contain.
        """
        correct = self.confusion.diagonal().double()
        return correct / (self.confusion.sum(0) + self.confusion.sum(1) - correct)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes in the ground truth or the predictions; higher is better.

        In [0, 1]. 0.0 without pixels.
        """
        return float(self.iou.nanmean().nan_to_num())

    @property
    def pixel_accuracy(self) -> float:
        """Share of correct pixels, in [0, 1]; higher is better. 0.0 without pixels."""
        return float(self.confusion.trace() / self.confusion.sum().clamp(min=1))


def count_pixels(
    pred: Int[Tensor, "height width"],
    mask: Int[Tensor, "height width"],
    num_classes: int,
    ignore_index: int,
) -> ConfusionMatrix:
    """Return the counts of one image. Pixels with `mask == ignore_index` are skipped."""
    valid = mask != ignore_index
    cells = mask[valid].long() * num_classes + pred[valid].long()
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    return ConfusionMatrix(confusion.cpu(), 1)


def table(counts: ConfusionMatrix, classes: Sequence[str]) -> dict:
    """Return the metrics as a JSON object; `None` for the IoU of a class without pixels."""
    per_class = {
        name: None if torch.isnan(value) else float(value)
        for name, value in zip(classes, counts.iou, strict=True)
    }
    return {
        "images": counts.images,
        "mean_iou": counts.mean_iou,
        "pixel_accuracy": counts.pixel_accuracy,
        "iou": per_class,
        "confusion": counts.confusion.tolist(),
    }
