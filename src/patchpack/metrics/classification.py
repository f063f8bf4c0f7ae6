"""How well images are classified: top-1, top-5, per class, and which classes are confused.

Counts come first and are summed over packs and processes; figures follow from the counts. The
model is a callable from a pack to logits: nothing here knows what is behind it.

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
    """What a classifier did, as numbers that can be added up."""

    confusion: Int[Tensor, "label label"]  # [true, predicted]
    in_top5: int  # images whose label is among the five likeliest
    nll: float  # negative log likelihoods, summed; of softmax, also where sigmoids were trained

    @staticmethod
    def none(num_classes: int) -> "ClassificationCounts":
        return ClassificationCounts(
            torch.zeros(num_classes, num_classes, dtype=torch.int64), 0, 0.0
        )

    def __add__(self, other: "ClassificationCounts") -> "ClassificationCounts":
        return ClassificationCounts(
            self.confusion + other.confusion, self.in_top5 + other.in_top5, self.nll + other.nll
        )

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def top1(self) -> float:
        return self.correct / max(1, self.images)

    @property
    def top5(self) -> float:
        return self.in_top5 / max(1, self.images)

    @property
    def mean_nll(self) -> float:
        """In nats."""
        return self.nll / max(1, self.images)

    @property
    def per_class(self) -> Float[Tensor, " label"]:
        """Share of each class's images that are right; NaN for a class without images."""
        return self.confusion.diagonal() / self.confusion.sum(1)


def count(
    logits: Float[Tensor, "image label"], labels: Int[Tensor, " image"]
) -> ClassificationCounts:
    """Counts of one pack."""
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
    """Counts over all packs; images without a label (-1) are not counted."""
    total = ClassificationCounts.none(num_classes)
    for batch in batches:
        if not batch.num_images:
            continue
        labels = batch.targets["label"]
        if not isinstance(labels, Tensor):
            raise ValueError("classification needs one label per image")
        known = (labels >= 0).cpu()
        logits = predict(batch).cpu()
        total = total + count(logits[known], labels.cpu()[known])
    return total


def classify_views(
    predict: Predict, batches: Iterable[PackedBatch], num_classes: int
) -> ClassificationCounts:
    """Counts over packs that hold each clip several times: its logits are averaged."""
    logits: dict[str, list[Tensor]] = {}
    labels: dict[str, int] = {}
    for batch in batches:
        if not batch.num_images:
            continue
        told = batch.targets["label"]
        for key, row, label in zip(batch.keys, predict(batch).cpu(), told, strict=True):
            logits.setdefault(key, []).append(row)
            labels[key] = int(label)
    known = [key for key, label in labels.items() if label >= 0]
    if not known:
        return ClassificationCounts.none(num_classes)
    rows = torch.stack([torch.stack(logits[key]).mean(0) for key in known])
    return count(rows, torch.tensor([labels[key] for key in known]))


def table(counts: ClassificationCounts, classes: Sequence[str]) -> dict:
    """The figures as JSON."""
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
