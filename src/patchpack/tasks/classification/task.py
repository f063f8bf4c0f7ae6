"""Training a classifier on labelled images or clips."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from patchpack.batch import PackedBatch
from patchpack.data.annotations.boxes import COLUMN as OBJECTS
from patchpack.data.annotations.captions import COLUMNS as TEXTS
from patchpack.data.annotations.masks import COLUMN as MASK
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import CLIPS, IMAGES, BadDataset
from patchpack.distributed import World, all_gather_objects, all_reduce_floats
from patchpack.inference.model_spec import ModelSpec
from patchpack.metrics.classification import classify
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.classification.model import ClassificationConfig, Classifier
from patchpack.tasks.task import Judged, build_spec, validation_batches
from patchpack.train.config import RunConfig
from patchpack.train.precision import autocast

TASK_HINTS = (  # what data without labels may have instead
    ("texts", "contrastive-config", TEXTS),
    ("masks", "segmentation-config", (MASK,)),
    ("boxes", "detection-config", (OBJECTS,)),
)


class Classification:
    """A Job: images, or clips, to one label each. Raises BadDataset for data without labels."""

    metric = "top1"

    def __init__(self, index: Index, config: RunConfig, task: ClassificationConfig) -> None:
        self.config, self.task, self.classes = config, task, index.classes
        if not self.classes:
            hints = [
                f"; to learn from its {what}, add task:{task}"
                for what, task, columns in TASK_HINTS
                if any(name in index.columns or name in index.parsed for name in columns)
            ]
            expected = (CLIPS if config.clip_sampling else IMAGES).expected
            raise BadDataset(f"{index.root} has no labels to learn: {expected}{''.join(hints)}")
        if len(self.classes) == 1:
            raise BadDataset(
                f"{index.root} has one class only, {self.classes[0]!r}: nothing to tell apart"
            )
        train = index.split(config.data.train_split)
        self.train = _labelled(train, "training")
        self.val = _labelled(index.split(config.data.val_split), "validation")
        self.skipped: list[BadImage] = []
        lost = len(train) - len(self.train)
        self.messages = (
            [f"left out: {lost:,} {index.item_name} for training without a label"] if lost else []
        )

    def build(self) -> BackboneModule:
        return Classifier(self.config.model, len(self.classes), self.task)

    def head_matches(self, spec: dict[str, Any]) -> bool:
        return spec.get("classes") == list(self.classes)

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Accuracy on the validation split."""
        module.eval()
        errors: list[BadImage] = []

        @torch.inference_mode()
        def predict(batch: PackedBatch) -> torch.Tensor:
            with autocast(world.device, dtype):
                return module(batch.to(world.device))

        def batches() -> Iterator[PackedBatch]:
            for pack in validation_batches(self.val, self.config, world):
                errors.extend(pack.unreadable)
                yield pack.batch

        mine = classify(predict, batches(), len(self.classes))
        sums = all_reduce_floats([mine.correct, mine.in_top5, mine.nll, mine.images], world)
        images = sums.pop()
        means = [value / images for value in sums] if images else []
        values = dict(zip(("top1", "top5", "nll"), means, strict=False))
        return Judged(values, all_gather_objects(errors, world))

    def spec(self, dtype: str) -> ModelSpec:
        return build_spec(self.config, dtype, classes=self.classes)

    def write(self, folder: Path) -> None:
        """Nothing: labels are read again with the data."""


def _labelled(split: Index, name: str) -> Index:
    found = split.select(np.flatnonzero(split.labels >= 0).tolist())
    if not len(found):
        raise BadDataset(
            f"none of the {split.item_name} of the {name} split of {split.root} has a label"
        )
    return found
