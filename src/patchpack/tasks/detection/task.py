"""Training a detector on images and the boxes of their objects."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from patchpack.checkpoint import load_newest
from patchpack.data.annotations.boxes import BoxAnnotations, attach_boxes
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.tokenizer import (
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    tokenize_and_pack,
    write_tokenizer,
)
from patchpack.distributed import World, all_gather_objects
from patchpack.inference.model_spec import ModelSpec
from patchpack.loading import spec_in_checkpoint
from patchpack.metrics.detection import Detections, average_precision, need_detection
from patchpack.old_names import existing_file
from patchpack.serialization import from_json, to_json
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.detection.model import DetectionConfig, Detector
from patchpack.tasks.detection.predictor import decode_detections
from patchpack.tasks.task import Judged, build_spec, same_fields, validation_batches
from patchpack.train.config import RunConfig
from patchpack.train.precision import autocast

TEXT_TOWER = "text_tower.json"


class Detection:
    """A Job: images to boxes of objects. Raises BadDataset for data without boxes, and
    ImportError where the extra `detection` is not installed."""

    metric = "ap"

    def __init__(
        self, index: Index, config: RunConfig, task: DetectionConfig, resumed: bool
    ) -> None:
        need_detection()
        self.config = config
        self.reader = _reader(config, resumed) if task.open_vocabulary else None
        found, faults = attach_boxes(index, task.classes, config.data.max_bad_fraction)
        self.messages, self.skipped = faults.messages(), list(faults.images)
        bad = BadImages(index.root, dict.fromkeys(index.keys), config.data.max_bad_fraction)
        bad.add(self.skipped)
        self.classes = found.annotation(BoxAnnotations).classes
        self.task = replace(task, classes=self.classes)
        self.train = found.split(config.data.train_split)
        self.val = found.split(config.data.val_split)
        self._check_splits()

    def _check_splits(self) -> None:
        """Raise BadDataset where there is nothing to learn or to judge by."""
        learned, judged = (_labels(split) for split in (self.train, self.val))
        for name, labels in (("training", learned), ("validation", judged)):
            if not labels:
                raise BadDataset(f"no image of the {name} split of {self.train.root} has a box")
        unseen = [self.classes[label] for label in sorted(judged - learned)]
        if unseen and not self.task.open_vocabulary:
            raise BadDataset(
                f"{self.train.root}: there are boxes of {', '.join(map(repr, unseen[:10]))} in the "
                "validation split, and none in the training split"
            )

    def build(self) -> BackboneModule:
        text_tower, names = None, None
        if self.reader:
            text_tower, tokenizer = self.reader
            names = tokenize_and_pack(self.classes, tokenizer, text_tower.text.max_length)
        return Detector(self.config.model, len(self.classes), self.task, text_tower, names)

    def head_matches(self, spec: dict[str, Any]) -> bool:
        return same_fields(spec["task"], self.task, ("classes", "open_vocabulary"))

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Average precision on the validation split, in pixels of the images on disk."""
        module.eval()
        errors: list[BadImage] = []
        mine: list[tuple[str, Detections]] = []
        sizes = dict(zip(self.val.keys, zip(self.val.heights, self.val.widths, strict=True),
                         strict=True))  # fmt: skip
        for pack in validation_batches(self.val, self.config, world):
            errors.extend(pack.unreadable)
            with torch.inference_mode(), autocast(world.device, dtype):
                found = module(pack.batch.to(world.device))
            keys = pack.batch.keys
            mine += zip(
                keys, decode_detections(found, pack.batch, [sizes[k] for k in keys]), strict=True
            )
        found = dict(all_gather_objects(mine, world))
        result = average_precision(self.val, found)
        values = {name: getattr(result, name) or 0.0 for name in ("ap", "ap50", "ap75")}
        return Judged(values if found else {}, all_gather_objects(errors, world))

    def spec(self, dtype: str) -> ModelSpec:
        spec = replace(build_spec(self.config, dtype), task=self.task)
        if self.reader is None:
            return spec
        return replace(spec, text_tower=self.reader.text_tower, tokenizer=self.reader.tokenizer)

    def write(self, folder: Path) -> None:
        """What reads the names of classes; boxes are read again with the data."""
        if self.reader:
            write_tokenizer(self.reader.tokenizer, folder)
            text_tower = json.dumps(to_json(self.reader.text_tower), indent=2)
            (folder / TEXT_TOWER).write_text(text_tower + "\n")


def _labels(split: Index) -> set[int]:
    """The numbers of the classes that have a box."""
    images = split.annotation(BoxAnnotations).images
    return {int(label) for boxes in images for label in boxes.labels}


class Reader(NamedTuple):
    """What names of classes are read by."""

    text_tower: ContrastiveConfig
    tokenizer: Tokenizer


def _reader(config: RunConfig, resumed: bool) -> Reader:
    """The text side of the run to begin with, kept in the run's own folder when it is resumed."""
    if resumed:
        text_tower = from_json(
            ContrastiveConfig, json.loads(existing_file(config.out, TEXT_TOWER).read_text())
        )
        path = find_tokenizer(config.out)
        if path is None:
            raise BadDataset(f"{config.out} has lost the tokenizer that it began with")
        return Reader(text_tower, load_tokenizer(path))
    if config.init is None:
        raise BadDataset(
            "task.open_vocabulary needs --init: a run trained on images and texts, whose text side "
            "reads the names of classes"
        )
    spec = spec_in_checkpoint(load_newest(config.init / "checkpoints", "best"))
    text_tower = spec.task if isinstance(spec.task, ContrastiveConfig) else spec.text_tower
    if text_tower is None or spec.tokenizer is None:
        raise BadDataset(f"{config.init} reads no texts, as task.open_vocabulary needs it to")
    return Reader(text_tower, spec.tokenizer)
