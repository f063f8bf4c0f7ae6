"""Top-1 and top-5 accuracy of a classifier, in training and after it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from patchpack.batch import PackedBatch
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.video.frame_sampling import view_positions
from patchpack.distributed import World, all_reduce_floats, all_reduce_tensor
from patchpack.metrics.classification import ClassificationCounts, classify, classify_views
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.task import Evaluator


@dataclass(frozen=True)
class ClassificationResult:
    """Counts over the images of one evaluation."""

    counts: ClassificationCounts

    @property
    def metrics(self) -> dict[str, float]:
        counts = self.counts
        if not counts.images:
            return {}
        return {"top1": counts.top1, "top5": counts.top5, "nll": counts.mean_nll}


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
            counts = _all_reduce(counts, world)
        return ClassificationResult(counts)


def _all_reduce(counts: ClassificationCounts, world: World) -> ClassificationCounts:
    """The sum over all processes."""
    in_top5, nll = all_reduce_floats([counts.in_top5, counts.nll], world)
    confusion = all_reduce_tensor(counts.confusion.clone())
    return ClassificationCounts(confusion, int(in_top5), nll)


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
            "the model's classes with --label-map"
        )
    if not used:
        raise BadDataset(f"none of the {index.item_name} of {index.root} has a label to evaluate")
    table = np.array([numbers.get(name, -1) for name in names] + [-1])
    return replace(index, labels=table[index.labels], classes=classes)
