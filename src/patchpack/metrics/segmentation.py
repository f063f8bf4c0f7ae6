"""Semantic segmentation metrics: mean IoU, per-class IoU and pixel accuracy.

Pixel counts are summed over images and processes; the metrics are ratios of the sums. So each
pixel has the same weight and large images count more than small ones, as in PASCAL VOC, Cityscapes
and ADE20K.

Axes: label, height, width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpack.metrics.undefined import ratio


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
    def counted(self) -> Bool[Tensor, " label"]:
        """Whether the ground truth or the predictions contain a class, so that it has an IoU."""
        return (self.confusion.sum(0) + self.confusion.sum(1)) > 0

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes in the ground truth or the predictions; higher is better.

        In [0, 1]; of all classes only if all are `counted`. NaN without pixels, or classes to
        choose from.
        """
        return float(self.iou.nanmean()) if len(self.confusion) > 1 else math.nan

    @property
    def pixel_accuracy(self) -> float:
        """Share of correct pixels, in [0, 1]; higher is better. NaN as `mean_iou`."""
        if len(self.confusion) < 2:
            return math.nan
        return ratio(int(self.confusion.trace()), int(self.confusion.sum()))


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
    """Return the metrics as a JSON object; NaN for undefined ones.

    `mean_iou_classes` is the number of classes that the mean is of.
    """
    return {
        "images": counts.images,
        "mean_iou": counts.mean_iou,
        "mean_iou_classes": int(counts.counted.sum()),
        "pixel_accuracy": counts.pixel_accuracy,
        "iou": dict(zip(classes, counts.iou.tolist(), strict=True)),
        "confusion": counts.confusion.tolist(),
    }
