"""Top-1 and top-5 accuracy of a classifier, in training and after it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from patchpack.batch import PackedBatch
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.video.frame_sampling import view_positions
from patchpack.distributed import World, all_gather_objects
from patchpack.metrics.classification import TOP, ClassificationCounts, classify, classify_views
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.task import Evaluator


@dataclass(frozen=True)
class ClassificationResult:
    """Counts over the images of one evaluation."""

    counts: ClassificationCounts
    unlabelled: int = 0  # items without a label, or with one that the model was not trained on

    @property
    def metrics(self) -> dict[str, float]:
        counts = self.counts
        if not counts.images:
            return {}
        return {"top1": counts.top1, "top5": counts.top5, "nll": counts.mean_nll}

    @property
    def notes(self) -> list[str]:
        notes = accuracy_notes(self.counts)
        if self.unlabelled:
            notes.append(
                f"{self.unlabelled:,} items are not counted: they have no label, or one that the "
                "model was not trained on"
            )
        return notes


def accuracy_notes(counts: ClassificationCounts) -> list[str]:
    """What accuracy leaves out, and why it is undefined."""
    notes, num_classes = [], counts.cells.num_classes
    if not counts.images:
        return ["accuracy is undefined: no image has a label"]
    if num_classes < 2:
        return ["accuracy is undefined: a single class cannot be missed"]
    if num_classes <= TOP:
        notes.append(f"top-5 accuracy is undefined: {num_classes} classes cannot be missed")
    if absent := int(counts.per_class.isnan().sum()):
        notes.append(f"{absent:,} of {num_classes:,} classes have no image here")
    return notes


class ClassificationEvaluator(Evaluator):
    """Counts correct labels.

    index  items whose labels are numbered as the model's classes; -1 is not counted
    views  views of each clip, whose logits are averaged
    """

    def __init__(self, index: Index, views: int = 1) -> None:
        super().__init__(index)
        self.start_fractions = view_positions(views)

    def run(
        self,
        predictor: ClassificationPredictor,
        batches: Iterable[PackedBatch],
        world: World | None = None,
    ) -> ClassificationResult:
        count = classify if len(self.start_fractions) == 1 else classify_views
        counts = count(predictor.logits, batches, len(self.index.classes))
        if world is not None:
            counts = ClassificationCounts.merge(all_gather_objects([counts], world))
        check_finite(counts, self.index)
        return ClassificationResult(counts, int((self.index.labels < 0).sum()))


def check_finite(counts: ClassificationCounts, index: Index) -> None:
    """Raise ValueError where logits are not finite: they are no predictions."""
    if counts.not_finite:
        raise ValueError(
            f"the logits of {counts.not_finite:,} of {counts.images:,} {index.item_name} of "
            f"{index.root} are not finite: the model's weights are damaged or have diverged"
        )


def relabel(
    index: Index, classes: tuple[str, ...], label_map: Mapping[str, str] | None = None
) -> Index:
    """The index with labels numbered as the model's classes.

    label_map  from the data's class names to the model's; images of other classes get no label

    Raises BadDataset for a class that the model was not trained on, and where no image has a label.
    """
    names = [label_map.get(name, "") if label_map else name for name in index.classes]
    numbers = {name: i for i, name in enumerate(classes)}
    used = {names[label] for label in index.labels if label >= 0} - {""}
    unknown = sorted(used - set(classes))
    if unknown:
        raise BadDataset(
            f"{index.root} has classes that the model was not trained on: {unknown}; map them to "
            "the model's classes with --label-map FILE, which takes --suite"
        )
    if not used:
        raise BadDataset(f"none of the {index.item_name} of {index.root} has a label to evaluate")
    table = np.array([numbers.get(name, -1) for name in names] + [-1])
    return replace(index, labels=table[index.labels], classes=classes)
