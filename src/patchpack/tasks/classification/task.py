"""Training a classifier on labelled images or clips."""

import numpy as np

from patchpack.data.index import Index
from patchpack.data.records import CLIPS, IMAGES, BadDataset
from patchpack.inference.model_spec import ModelSpec, input_spec
from patchpack.tasks.classification.model import ClassificationConfig, Classifier
from patchpack.tasks.task import TaskContext, TaskRun


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """Images or clips with one label each; raises BadDataset for data without two classes."""
    if not index.classes:
        expected = (CLIPS if input_spec(context.model).tubelets else IMAGES).expected
        raise BadDataset(f"{index.root} has no class labels: {expected}")
    if len(index.classes) == 1:
        raise BadDataset(
            f"{index.root} has a single class, {index.classes[0]!r}: a classifier needs two"
        )
    train = index.split(context.data.train_split)
    labelled = _labelled(train, "training")
    unlabelled = len(train) - len(labelled)
    message = f"skipped: {unlabelled:,} {index.item_name} of the training split without a label"
    return TaskRun(
        train=labelled,
        val=_labelled(index.split(context.data.val_split), "validation"),
        task=context.task,
        classes=index.classes,
        messages=[message] if unlabelled else [],
    )


def build(spec: ModelSpec) -> Classifier:
    """The module of a spec, with new weights."""
    assert isinstance(spec.task, ClassificationConfig)
    return Classifier(spec.model, len(spec.classes), spec.task)


def _labelled(split: Index, name: str) -> Index:
    labelled = split.select(np.flatnonzero(split.labels >= 0).tolist())
    if not len(labelled):
        raise BadDataset(
            f"none of the {split.item_name} of the {name} split of {split.root} has a label"
        )
    return labelled
