"""Is the label right? Of a classifier, and of two towers that know the names of classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.evaluation.run_data import Cost, Data, judged
from patchpack.inference.predictor import Predictor
from patchpack.metrics.classification import ClassificationCounts, classify, classify_views
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.contrastive.predictor import ImageTextPredictor


@dataclass(frozen=True, kw_only=True)
class BudgetResult(Cost):
    """How well images were classified at one token budget."""

    counts: ClassificationCounts


def classify_at(
    model: ClassificationPredictor, data: Data, budgets: Sequence[int], views: int = 1
) -> list[BudgetResult]:
    """Accuracy of a classifier at each budget; of clips, over so many views of each.

    The classes of the data must all be known to the model; raises BadDataset where one is not,
    and where too many images cannot be used.
    """
    index = relabel(data.index, model.spec.classes)
    return _count_at(model, model.logits, replace(data, index=index), budgets, views)


def zero_shot_at(
    model: ImageTextPredictor, data: Data, templates: Sequence[str], budgets: Sequence[int]
) -> list[BudgetResult]:
    """Accuracy at each budget of telling classes by the nearest of their names."""
    classes = torch.from_numpy(model.embed_classes(data.index.classes, templates))
    return _count_at(
        model, lambda batch: model.scale * model.vectors(batch) @ classes.T, data, budgets
    )


def _count_at(
    model: Predictor,
    logits: Callable[[PackedBatch], Tensor],
    data: Data,
    budgets: Sequence[int],
    views: int = 1,
) -> list[BudgetResult]:
    index, bad = data.index, data.bad_images()
    judge = classify if views == 1 else classify_views
    results = []
    for tokens in budgets:
        found: list[ClassificationCounts] = []

        def count(packs: Iterator[PackedBatch], found=found) -> None:
            found.append(judge(logits, packs, len(index.classes)))

        cost = judged(model, data, tokens, bad, count, views)
        if not found[0].images:
            raise BadDataset(
                f"none of the {index.item_name} of {index.root} has a label that could be judged"
            )
        results.append(BudgetResult(**cost, counts=found[0]))
    return results


def relabel(
    index: Index, classes: tuple[str, ...], label_map: Mapping[str, str] | None = None
) -> Index:
    """Number labels as the model does.

    label_map  from the data's classes to the model's; images of the others are not judged

    Raises BadDataset for a class that the model was not trained on.
    """
    names = [label_map.get(name, "") if label_map else name for name in index.classes]
    numbers = {name: i for i, name in enumerate(classes)}
    used = {names[label] for label in index.labels if label >= 0} - {""}
    foreign = sorted(used - set(classes))
    if foreign:
        raise BadDataset(
            f"{index.root} has classes that the model was not trained on: {foreign}; a --label-map "
            "says which of its classes they are"
        )
    table = np.array([numbers.get(name, -1) for name in names] + [-1])
    return replace(index, labels=table[index.labels], classes=classes)
