"""Training a classifier on labelled images or clips."""

import numpy as np

from patchpack.data.index import Index
from patchpack.data.records import CLIPS, IMAGES, BadDataset, list_names
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
    splits, messages = [], []
    for name, key in (
        ("training", context.data.train_split),
        ("validation", context.data.val_split),
    ):
        split = index.split(key)
        splits.append(_labelled(split, name))
        if unlabelled := len(split) - len(splits[-1]):
            messages.append(
                f"skipped: {unlabelled:,} {index.item_name} of the {name} split without a label"
                + ("" if name == "training" else ", or with one that no training image has")
            )
    train, val = splits
    _check_classes(train)
    return TaskRun(
        train=train, val=val, task=context.task, classes=index.classes, messages=messages
    )


def _check_classes(train: Index) -> None:
    """Raise BadDataset where a class has nothing to learn from."""
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if absent := [name for name, number in zip(train.classes, counts, strict=True) if not number]:
        raise BadDataset(
            f"{train.root}: no {train.item_name[:-1]} of the training split is of the "
            f"{'class' if len(absent) == 1 else 'classes'} {list_names(absent)}: a class without "
            "one cannot be trained; add some, or leave the class out of the data "
            "(data.where selects by a column)"
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
