"""Training a detector on images and the boxes of their objects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.objects import with_objects
from patchpack.distributed import World, gather_over_ranks
from patchpack.evaluate.detection import FoundBoxes, average_precision
from patchpack.heads.detection import DetectionConfig, Detector
from patchpack.heads.task import TrunkTask
from patchpack.packs import validation_packs
from patchpack.serve.card import ModelCard
from patchpack.serve.detector import boxes_of
from patchpack.tasks.job import Judged, card_of
from patchpack.train.config import RunConfig
from patchpack.train.precision import autocast


class Detection:
    """A Job: images to boxes of objects. Raises BadDataset for data without boxes."""

    metric = "ap"

    def __init__(self, index: Index, config: RunConfig, task: DetectionConfig) -> None:
        self.config = config
        found, faults = with_objects(index, task.classes, config.data.max_bad_fraction)
        assert found.objects is not None
        self.notes, self.left_out = faults.notes(), []
        self.classes = found.objects.classes
        self.task = replace(task, classes=self.classes)
        self.train = found.split(config.data.train_split)
        self.val = found.split(config.data.val_split)

    def build(self) -> TrunkTask:
        return Detector(self.config.model, len(self.classes), self.task)

    def continues(self, card: dict[str, Any]) -> bool:
        task = card.get("task") or {}
        return task.get("type") == "DetectionConfig" and task["classes"] == list(self.classes)

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Average precision on the validation split, in pixels of the images on disk."""
        module.eval()
        errors: list[BadImage] = []
        mine: list[tuple[str, FoundBoxes]] = []
        sizes = dict(zip(self.val.keys, zip(self.val.heights, self.val.widths, strict=True),
                         strict=True))  # fmt: skip
        for pack in validation_packs(self.val, self.config, world):
            errors.extend(pack.bad)
            with torch.inference_mode(), autocast(world.device, dtype):
                found = module(pack.batch.to(world.device))
            keys = pack.batch.keys
            mine += zip(keys, boxes_of(found, pack.batch, [sizes[k] for k in keys]), strict=True)
        found = dict(gather_over_ranks(mine, world))
        result = average_precision(self.val, found)
        values = {name: getattr(result, name) or 0.0 for name in ("ap", "ap50", "ap75")}
        return Judged(values if found else {}, gather_over_ranks(errors, world))

    def card(self, dtype: str) -> ModelCard:
        return replace(card_of(self.config, dtype), task=self.task)

    def write(self, folder: Path) -> None:
        """Nothing: boxes are read again with the data."""
