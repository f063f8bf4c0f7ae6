"""Classification metrics: top-1, top-5, NLL, per-class recall and the confusion matrix.

Counts are summed over packs and processes; the metrics are ratios of the sums. The model is any
callable from a pack to logits.

Axes: image, label.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.metrics.confusion import Confusion
from patchpack.metrics.undefined import ratio

TOP = 5  # highest logits that count for top-5
MATRIX = 100  # classes up to which the whole confusion matrix is written
PAIRS = 50  # pairs of classes that are written, most wrong images first
Predict = Callable[[PackedBatch], Tensor]  # logits [image, label]


@dataclass(frozen=True, eq=False)
class ClassificationCounts:
    """Additive counts of a classifier's predictions; `a + b` merges packs or processes.

    Metrics are NaN without images, and where logits are not finite.
    """

    cells: Confusion  # images by true and predicted class
    in_top5: int  # images whose label is among the five highest logits
    nll: float  # sum of −log softmax, nats; softmax also for models trained with sigmoid loss
    not_finite: int = 0  # labeled images without finite logits; in no other count

    @staticmethod
    def none(num_classes: int) -> "ClassificationCounts":
        """Return the counts of zero images."""
        return ClassificationCounts(Confusion.none(num_classes), 0, 0.0)

    @staticmethod
    def merge(parts: Sequence["ClassificationCounts"]) -> "ClassificationCounts":
        """Return the sum of one or more counts."""
        return ClassificationCounts(
            Confusion.merge([part.cells for part in parts]),
            sum(part.in_top5 for part in parts),
            sum(part.nll for part in parts),
            sum(part.not_finite for part in parts),
        )

    def __add__(self, other: "ClassificationCounts") -> "ClassificationCounts":
        return ClassificationCounts.merge([self, other])

    @property
    def confusion(self) -> Int[Tensor, "label label"]:
        """The dense matrix [true, predicted]: for few classes."""
        return self.cells.dense()

    @property
    def images(self) -> int:
        """Number of labeled images."""
        return self.cells.images + self.not_finite

    @property
    def correct(self) -> int:
        """Number of images whose label has the highest logit."""
        return self.cells.correct

    @property
    def top1(self) -> float:
        """Top-1 accuracy, in [0, 1]; higher is better. NaN for a single class."""
        return self._mean(self.correct) if self.cells.num_classes > 1 else math.nan

    @property
    def top5(self) -> float:
        """Top-5 accuracy, in [0, 1]; higher is better. NaN for five classes or fewer."""
        return self._mean(self.in_top5) if self.cells.num_classes > TOP else math.nan

    @property
    def mean_nll(self) -> float:
        """Mean negative log likelihood of softmax, in nats; lower is better."""
        return self._mean(self.nll)

    def _mean(self, total: float) -> float:
        return math.nan if self.not_finite else ratio(total, self.images)

    @property
    def per_class(self) -> Float[Tensor, " label"]:
        """Recall of each class, in [0, 1]; higher is better. NaN for a class without images."""
        recall = self.cells.recall
        return recall.fill_(math.nan) if self.not_finite else recall


def count(
    logits: Float[Tensor, "image label"], labels: Int[Tensor, " image"]
) -> ClassificationCounts:
    """Return the counts of one pack. Labels are class indices >= 0.

    An image whose softmax is undefined (a logit is NaN or +∞) counts in `not_finite` alone.
    """
    num_classes, logits = logits.shape[1], logits.float().cpu()
    nll = -logits.log_softmax(1)
    finite = ~nll.isnan().any(1)
    logits, nll, labels = logits[finite], nll[finite], labels.cpu()[finite]
    top = logits.topk(min(TOP, num_classes), dim=1).indices
    return ClassificationCounts(
        Confusion.of(labels, logits.argmax(1), num_classes),
        int((top == labels[:, None]).any(1).sum()),
        float(nll[torch.arange(len(labels)), labels].sum()),
        int((~finite).sum()),
    )


def classify(
    predict: Predict, batches: Iterable[PackedBatch], num_classes: int
) -> ClassificationCounts:
    """Return the counts over all packs. Images without a label (-1) are skipped.

    Raise ValueError if `targets["label"]` is not a tensor.
    """
    parts = [ClassificationCounts.none(num_classes)]
    for batch in batches:
        if not batch.num_images:
            continue
        labels = batch.targets["label"]
        if not isinstance(labels, Tensor):
            raise ValueError("classification needs one label per image")
        labeled = (labels >= 0).cpu()
        logits = predict(batch).cpu()
        parts.append(count(logits[labeled], labels.cpu()[labeled]))
    return ClassificationCounts.merge(parts)


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
    """Return the metrics as a JSON object; NaN for undefined ones.

    The confusion matrix is whole up to MATRIX classes, and null above. The PAIRS pairs of classes
    with the most wrong images follow, and the number of pairs left out.
    """
    pairs = counts.cells.confused_pairs()
    return {
        "images": counts.images,
        "top1": counts.top1,
        "top5": counts.top5,
        "nll": counts.mean_nll,
        "per_class": dict(zip(classes, counts.per_class.tolist(), strict=True)),
        "confusion": counts.confusion.tolist() if len(classes) <= MATRIX else None,
        "most_confused": [
            {"true": classes[true], "predicted": classes[predicted], "images": images}
            for true, predicted, images in pairs[:PAIRS]
        ],
        "confused_pairs_left_out": len(pairs[PAIRS:]),
    }
