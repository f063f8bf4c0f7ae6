"""Training a segmenter on images and their masks."""

from dataclasses import replace

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.masks import attach_masks, check_masks, read_classes
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.inference.model_spec import ModelSpec
from patchpack.tasks.segmentation.evaluator import SegmentationEvaluator
from patchpack.tasks.segmentation.model import SegmentationConfig, Segmenter
from patchpack.tasks.task import TaskContext, TaskRun


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """Images and their masks; raises BadDataset for data without masks."""
    task, data = context.task, context.data
    check_masks(index)
    classes = task.classes or read_classes(index.root)
    if not 2 <= len(classes) <= IGNORE_INDEX:
        raise BadDataset(f"masks may have 2 to {IGNORE_INDEX} classes, not {len(classes)}")
    if len(task.class_weights) not in (0, len(classes)):
        raise BadDataset(
            f"{len(task.class_weights)} class_weights for {len(classes)} classes: "
            f"{', '.join(classes)}"
        )
    messages = []
    if task.ignore_index is not None and 0 <= task.ignore_index < len(classes):
        name = classes[task.ignore_index]
        messages.append(f"task.ignore_index is the class {name!r}: not trained and not evaluated")
    index, skipped = attach_masks(index, len(classes), task.ignore_index)
    keys = dict.fromkeys([*index.keys, *(error.key for error in skipped)])
    BadImages(index.root, keys, data.max_bad_fraction).add(skipped)
    return TaskRun(
        train=index.split(data.train_split),
        val=index.split(data.val_split),
        task=replace(task, classes=classes),
        skipped=skipped,
        messages=messages,
    )


def build(spec: ModelSpec) -> Segmenter:
    """The module of a spec, with new weights."""
    assert isinstance(spec.task, SegmentationConfig)
    return Segmenter(spec.model, len(spec.task.classes), spec.task)


def head_key(spec: ModelSpec) -> object:
    """Classes and decoder decide what the head computes."""
    assert isinstance(spec.task, SegmentationConfig)
    return spec.task.classes, spec.task.decoder


def run_evaluator(run: TaskRun) -> SegmentationEvaluator:
    """Mean IoU over the validation split."""
    assert isinstance(run.task, SegmentationConfig)
    return SegmentationEvaluator(run.val, len(run.task.classes), run.task.ignore_index)
