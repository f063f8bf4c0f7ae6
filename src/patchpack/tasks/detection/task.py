"""Training a detector on images and bounding boxes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from patchpack.checkpoint import load_newest
from patchpack.data.annotations.boxes import BoxAnnotations, attach_boxes
from patchpack.data.annotations.objects import source_ids
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index
from patchpack.data.records import BadDataset, list_names
from patchpack.data.tokenizer import Tokenizer, find_tokenizer, load_tokenizer, write_tokenizer
from patchpack.inference.model_spec import ModelSpec, spec_in_checkpoint
from patchpack.metrics.detection import need_detection
from patchpack.old_names import existing_file
from patchpack.serialization import from_json, to_json
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.evaluator import DetectionEvaluator
from patchpack.tasks.detection.model import DetectionConfig, Detector
from patchpack.tasks.task import TaskContext, TaskRun

TEXT_TOWER = "text_tower.json"


class TextEncoder(NamedTuple):
    """What encodes class names."""

    text_tower: ContrastiveConfig
    tokenizer: Tokenizer

    def write(self, folder: Path) -> None:
        """Keep it in a run's folder, where a resumed run reads it."""
        write_tokenizer(self.tokenizer, folder)
        text = json.dumps(to_json(self.text_tower), indent=2)
        (folder / TEXT_TOWER).write_text(text + "\n")


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """Images and the boxes of their objects.

    Raises BadDataset for data without boxes, and ImportError without the extra `detection`.
    """
    need_detection()
    task, data = context.task, context.data
    encoder = _text_encoder(context) if task.open_vocabulary else None
    boxed, issues = attach_boxes(index, task.classes, data.max_bad_fraction)
    BadImages(index.root, dict.fromkeys(index.keys), data.max_bad_fraction).add(issues.images)
    classes = boxed.annotation(BoxAnnotations).classes
    train, val = boxed.split(data.train_split), boxed.split(data.val_split)
    _check_splits(train, val, classes, task.open_vocabulary)
    return TaskRun(
        train=train,
        val=val,
        task=replace(task, classes=classes),
        source_ids=source_ids(index),
        text_tower=encoder.text_tower if encoder else None,
        tokenizer=encoder.tokenizer if encoder else None,
        skipped=list(issues.images),
        messages=issues.messages(),
        write=encoder.write if encoder else lambda folder: None,
    )


def _check_splits(train: Index, val: Index, classes: Sequence[str], open_vocabulary: bool) -> None:
    """Raise BadDataset where a split has no box, or training none of a class."""
    trained, evaluated = _labels(train), _labels(val)
    for name, labels in (("training", trained), ("validation", evaluated)):
        if not labels:
            raise BadDataset(f"no image of the {name} split of {train.root} has a box")
    unseen = [name for label, name in enumerate(classes) if label not in trained]
    if unseen and not open_vocabulary:
        raise BadDataset(
            f"{train.root}: no box of the training split is of {list_names(unseen)}: a class "
            "without a box cannot be trained; add such boxes, or name the other classes with "
            "task.classes"
        )


def _labels(split: Index) -> set[int]:
    """The labels that have a box."""
    images = split.annotation(BoxAnnotations).images
    return {int(label) for boxes in images for label in boxes.labels}


def _text_encoder(context: TaskContext) -> TextEncoder:
    """The text side of the run that initializes this one; of the run's own folder when resumed."""
    out, init = context.out, context.init
    if context.resumed:
        text = existing_file(out, TEXT_TOWER).read_text()
        path = find_tokenizer(out)
        if path is None:
            raise BadDataset(f"{out} has lost its tokenizer file")
        return TextEncoder(from_json(ContrastiveConfig, json.loads(text)), load_tokenizer(path))
    if init is None:
        raise BadDataset(
            "task.open_vocabulary needs --init: a run of task:contrastive-config, whose text tower "
            "encodes the class names"
        )
    spec = spec_in_checkpoint(load_newest(init / "checkpoints", "best"))
    text_tower = spec.task if isinstance(spec.task, ContrastiveConfig) else spec.text_tower
    if not isinstance(text_tower, ContrastiveConfig) or spec.tokenizer is None:
        raise BadDataset(f"{init} has no text tower, which task.open_vocabulary needs")
    return TextEncoder(text_tower, spec.tokenizer)


def build(spec: ModelSpec) -> Detector:
    """The module of a spec, with new weights."""
    task, text_tower = spec.task, spec.text_tower
    assert isinstance(task, DetectionConfig)
    if text_tower is None:
        return Detector(spec.model, len(task.classes), task)
    assert isinstance(text_tower, ContrastiveConfig) and spec.tokenizer is not None
    return Detector(spec.model, len(task.classes), task, text_tower, spec.tokenizer)


def head_key(spec: ModelSpec) -> object:
    """Classes, and how they are scored, decide what the head computes."""
    assert isinstance(spec.task, DetectionConfig)
    return spec.task.classes, spec.task.open_vocabulary


def run_evaluator(run: TaskRun) -> DetectionEvaluator:
    """Average precision over the validation split."""
    return DetectionEvaluator(run.val)
