"""How well pixels are told apart: mean IoU, IoU of each class, pixel accuracy.

Pixels are counted first and summed over images and processes; figures follow from the counts, so
large images weigh more than small ones, as in the benchmarks of the field.

Axes: label, height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ConfusionMatrix:
    """What became of the pixels of each class."""

    confusion: Int[Tensor, "label label"]  # pixels [true, predicted]
    images: int = 0

    @staticmethod
    def none(num_classes: int) -> "ConfusionMatrix":
        return ConfusionMatrix(torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        return ConfusionMatrix(self.confusion + other.confusion, self.images + other.images)

    @property
    def iou(self) -> Float[Tensor, " label"]:
        """Pixels rightly of a class ÷ those that are of it, or said to be; NaN where none is."""
        right = self.confusion.diagonal().double()
        return right / (self.confusion.sum(0) + self.confusion.sum(1) - right)

    @property
    def mean_iou(self) -> float:
        """Over the classes that occur, in truth or in what was said; 0 where none does."""
        return float(self.iou.nanmean().nan_to_num())

    @property
    def pixel_accuracy(self) -> float:
        return float(self.confusion.trace() / self.confusion.sum().clamp(min=1))


def count_pixels(
    found: Int[Tensor, "height width"],
    mask: Int[Tensor, "height width"],
    num_classes: int,
    ignored: int,
) -> ConfusionMatrix:
    """Counts of one image; `ignored` pixels of the mask are not counted."""
    known = mask != ignored
    cells = mask[known].long() * num_classes + found[known].long()
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    return ConfusionMatrix(confusion.cpu(), 1)


def table(counts: ConfusionMatrix, classes: Sequence[str]) -> dict:
    """The figures as JSON."""
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
