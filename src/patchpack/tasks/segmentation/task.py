"""Training a segmenter on images and their masks."""

from collections.abc import Sequence
from dataclasses import replace

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.drawn_masks import outline_classes
from patchpack.data.annotations.mask_scan import find_mask_problem
from patchpack.data.annotations.mask_values import MaskEncoding
from patchpack.data.annotations.masks import (
    ClassTable,
    attach_drawn_masks,
    attach_masks,
    check_masks,
    has_mask_files,
    read_class_table,
)
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.distributed import all_gather_objects
from patchpack.inference.model_spec import ModelSpec
from patchpack.tasks.segmentation.evaluator import SegmentationEvaluator
from patchpack.tasks.segmentation.model import SegmentationConfig, Segmenter
from patchpack.tasks.task import TaskContext, TaskRun, annotated_split


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """Images and their masks; raises BadDataset for data without masks."""
    task, data = context.task, context.data
    check_masks(index)
    classes, encoding = _class_table(index, task)
    if not 2 <= len(classes) <= IGNORE_INDEX:
        raise BadDataset(f"masks may have 2 to {IGNORE_INDEX} classes, not {len(classes)}")
    if len(task.class_weights) not in (0, len(classes)):
        raise BadDataset(
            f"{len(task.class_weights)} class_weights for {len(classes)} classes: "
            f"{', '.join(classes)}"
        )
    messages = []
    ignored = None if task.ignore_index is None else encoding.label(task.ignore_index)
    if ignored is not None and 0 <= ignored < len(classes):
        name = classes[ignored]
        messages.append(f"task.ignore_index is the class {name!r}: not trained and not evaluated")
    whole = index
    if has_mask_files(index):
        index, skipped = attach_masks(
            index, len(classes), task.ignore_index, encoding, data.reading
        )
    else:
        index, skipped, notes = attach_drawn_masks(index, classes, task.ignore_index)
        messages += notes
    keys = dict.fromkeys([*index.keys, *(error.key for error in skipped)])
    BadImages(index.root, keys, data.max_bad_fraction).add(skipped)
    train, val = (
        annotated_split(index, whole, split, "a mask")
        for split in (data.train_split, data.val_split)
    )
    if not context.resumed:
        _check_values(train, classes, context)
    colors = tuple(f"{value:06x}" for value in encoding.values) if encoding.colors else ()
    values = () if encoding.colors else encoding.values
    return TaskRun(
        train=train,
        val=val,
        task=replace(task, classes=classes, mask_values=values, mask_colors=colors),
        skipped=skipped,
        messages=messages,
    )


def _class_table(index: Index, task: SegmentationConfig) -> ClassTable:
    """Names of the classes and how masks write them: of the config, or of classes.json."""
    if not has_mask_files(index):
        return ClassTable(task.classes or outline_classes(index), MaskEncoding.plain)
    given = task.encoding
    table = ClassTable(task.classes, given) if task.classes else read_class_table(index.root)
    encoding = given if given.values else table.encoding
    if len(encoding.values) not in (0, len(table.names)):
        raise BadDataset(
            f"{len(encoding.values)} {encoding.option} for {len(table.names)} classes: "
            f"{', '.join(table.names)}"
        )
    return ClassTable(table.names, encoding)


def _check_values(train: Index, classes: Sequence[str], context: TaskContext) -> None:
    """Raise BadDataset, in every process, where the training masks do not serve; the first reads
    them."""
    problems = []
    if context.world.is_main:
        problems = [find_mask_problem(train, classes, context.data.max_bad_fraction)]
    (problem,) = all_gather_objects(problems, context.world)
    if problem:
        raise BadDataset(problem)


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
    return SegmentationEvaluator(run.val, run.task.classes, run.task.ignore_index)
