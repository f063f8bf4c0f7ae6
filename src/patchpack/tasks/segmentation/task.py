"""Training a segmenter on images and their masks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.masks import attach_masks, check_masks, read_classes
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.distributed import World, all_gather_objects, all_reduce_floats
from patchpack.inference.model_spec import ModelSpec
from patchpack.metrics.segmentation import ConfusionMatrix, count_pixels
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.segmentation.model import SegmentationConfig, Segmenter
from patchpack.tasks.task import Judged, build_spec, same_fields, validation_batches
from patchpack.train.config import RunConfig
from patchpack.train.precision import autocast


class Segmentation:
    """A Job: images to the class of every pixel. Raises BadDataset for data without masks."""

    metric = "mean_iou"

    def __init__(self, index: Index, config: RunConfig, task: SegmentationConfig) -> None:
        self.config, self.messages = config, []
        check_masks(index)
        self.classes = task.classes or read_classes(index.root)
        if not 2 <= len(self.classes) <= IGNORE_INDEX:
            raise BadDataset(f"masks may hold 2 to {IGNORE_INDEX} classes, not {len(self.classes)}")
        if len(task.class_weights) not in (0, len(self.classes)):
            raise BadDataset(
                f"{len(task.class_weights)} class_weights for {len(self.classes)} classes: "
                f"{', '.join(self.classes)}"
            )
        self.task = replace(task, classes=self.classes)
        if task.ignore_index is not None and 0 <= task.ignore_index < len(self.classes):
            name = self.classes[task.ignore_index]
            self.messages.append(f"task.ignore is the number of {name!r}: never learned or judged")
        found, self.skipped = attach_masks(index, len(self.classes), task.ignore_index)
        bad = BadImages(index.root, dict.fromkeys(index.keys), config.data.max_bad_fraction)
        bad.add(self.skipped)
        self.train = found.split(config.data.train_split)
        self.val = found.split(config.data.val_split)

    def build(self) -> BackboneModule:
        return Segmenter(self.config.model, len(self.classes), self.task)

    def head_matches(self, spec: dict[str, Any]) -> bool:
        return same_fields(spec["task"], self.task, ("classes", "decoder"))

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Mean IoU of the validation split, at the native size of its images."""
        assert isinstance(module, Segmenter)
        module.eval()
        errors: list[BadImage] = []
        counts = ConfusionMatrix.none(len(self.classes))
        for pack in validation_batches(self.val, self.config, world):
            errors.extend(pack.unreadable)
            masks = pack.batch.targets.get("mask", [])
            with torch.inference_mode(), autocast(world.device, dtype):
                found = module.classes(pack.batch.to(world.device), [m.shape for m in masks])
            for mine, mask in zip(found, masks, strict=True):
                counts += count_pixels(mine.cpu(), mask, len(self.classes), IGNORE_INDEX)
        sums = all_reduce_floats([counts.images, *counts.confusion.flatten().tolist()], world)
        total = ConfusionMatrix(
            torch.tensor(sums[1:]).long().view_as(counts.confusion), int(sums[0])
        )
        if total.images and not total.confusion.any():
            raise BadDataset(
                f"no pixel of the masks of the validation split of {self.val.root} has a class: "
                f"task.ignore is {self.task.ignore_index}"
            )
        values = {"mean_iou": total.mean_iou, "pixel_accuracy": total.pixel_accuracy}
        return Judged(values if total.images else {}, all_gather_objects(errors, world))

    def spec(self, dtype: str) -> ModelSpec:
        return replace(build_spec(self.config, dtype), task=self.task)

    def write(self, folder: Path) -> None:
        """Nothing: masks are found again with the data."""
