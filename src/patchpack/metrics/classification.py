"""Classification metrics: top-1, top-5, NLL, per-class recall and the confusion matrix.

Counts are summed over packs and processes; the metrics are ratios of the sums. The model is any
callable from a pack to logits.

Axes: image, label.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpack.batch import PackedBatch

Predict = Callable[[PackedBatch], Tensor]  # logits [image, label]


@dataclass(frozen=True)
class ClassificationCounts:
    """Additive counts of a classifier's predictions; `a + b` merges packs or processes.

    The metrics of zero images are 0, not NaN.
    """

    confusion: Int[Tensor, "label label"]  # [true, predicted]
    in_top5: int  # images whose label is among the five highest logits
    nll: float  # sum of −log softmax, nats; softmax also for models trained with sigmoid loss

    @staticmethod
    def none(num_classes: int) -> "ClassificationCounts":
        """Return the counts of zero images."""
        return ClassificationCounts(
            torch.zeros(num_classes, num_classes, dtype=torch.int64), 0, 0.0
        )

    def __add__(self, other: "ClassificationCounts") -> "ClassificationCounts":
        return ClassificationCounts(
            self.confusion + other.confusion, self.in_top5 + other.in_top5, self.nll + other.nll
        )

    @property
    def images(self) -> int:
        """Number of labeled images."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Number of images whose label has the highest logit."""
        return int(self.confusion.trace())

    @property
    def top1(self) -> float:
        """Top-1 accuracy, in [0, 1]; higher is better. 0.0 without images."""
        return self.correct / max(1, self.images)

    @property
    def top5(self) -> float:
        """Top-5 accuracy, in [0, 1]; higher is better. 0.0 without images.

        With fewer than five classes, all of them count.
        """
        return self.in_top5 / max(1, self.images)

    @property
    def mean_nll(self) -> float:
        """Mean negative log likelihood of softmax, in nats; lower is better. 0.0 without images."""
        return self.nll / max(1, self.images)

    @property
    def per_class(self) -> Float[Tensor, " label"]:
        """Recall of each class, in [0, 1]; higher is better. NaN for a class without images."""
        return self.confusion.diagonal() / self.confusion.sum(1)


def count(
    logits: Float[Tensor, "image label"], labels: Int[Tensor, " image"]
) -> ClassificationCounts:
    """Return the counts of one pack. Labels are class indices >= 0."""
    logits, labels = logits.float().cpu(), labels.cpu()
    num_classes = logits.shape[1]
    cells = labels * num_classes + logits.argmax(1)
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    top5 = logits.topk(min(5, num_classes), dim=1).indices
    nll = -logits.log_softmax(1)[torch.arange(len(labels)), labels]
    return ClassificationCounts(
        confusion, int((top5 == labels[:, None]).any(1).sum()), float(nll.sum())
    )


def classify(
    predict: Predict, batches: Iterable[PackedBatch], num_classes: int
) -> ClassificationCounts:
    """Return the counts over all packs. Images without a label (-1) are skipped.

    Raise ValueError if `targets["label"]` is not a tensor.
    """
    total = ClassificationCounts.none(num_classes)
    for batch in batches:
        if not batch.num_images:
            continue
        labels = batch.targets["label"]
        if not isinstance(labels, Tensor):
            raise ValueError("classification needs one label per image")
        labeled = (labels >= 0).cpu()
        logits = predict(batch).cpu()
        total = total + count(logits[labeled], labels.cpu()[labeled])
    return total


def classify_views(
    predict: Predict, batches: Iterable[PackedBatch], num_classes: int
) -> ClassificationCounts:
    """Return the counts over packs that hold several views of each clip.

    The logits of views with the same key are averaged. Clips without a label (-1) are skipped.
    """
    logits: dict[str, list[Tensor]] = {}
    labels: dict[str, int] = {}
    for batch in batches:
        if not batch.num_images:
            continue
        targets = batch.targets["label"]
        for key, row, label in zip(batch.keys, predict(batch).cpu(), targets, strict=True):
            logits.setdefault(key, []).append(row)
            labels[key] = int(label)
    labeled = [key for key, label in labels.items() if label >= 0]
    if not labeled:
        return ClassificationCounts.none(num_classes)
    rows = torch.stack([torch.stack(logits[key]).mean(0) for key in labeled])
    return count(rows, torch.tensor([labels[key] for key in labeled]))


def table(counts: ClassificationCounts, classes: Sequence[str]) -> dict:
    """Return the metrics as a JSON object; `None` for the recall of a class without images."""
    per_class = {
        name: None if torch.isnan(value) else float(value)
        for name, value in zip(classes, counts.per_class, strict=True)
    }
    return {
        "images": counts.images,
        "top1": counts.top1,
        "top5": counts.top5,
        "nll": counts.mean_nll,
        "per_class": per_class,
        "confusion": counts.confusion.tolist(),
    }
