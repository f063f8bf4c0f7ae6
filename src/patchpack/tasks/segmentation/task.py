"""Training a segmenter on images and their masks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchpack.batch import IGNORED
from patchpack.data.annotations.mask_files import check_masks, read_classes, with_masks
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.pipeline import validation_packs
from patchpack.data.records import BadDataset
from patchpack.distributed import World, gather_over_ranks, sum_over_ranks
from patchpack.inference.model_spec import ModelCard
from patchpack.metrics.segmentation import PixelCounts, count_pixels
from patchpack.tasks.backbone_module import TrunkTask
from patchpack.tasks.segmentation.model import SegmentationConfig, Segmenter
from patchpack.tasks.task import Judged, card_of, same_fields
from patchpack.train.config import RunConfig
from patchpack.train.precision import autocast


class Segmentation:
    """A Job: images to the class of every pixel. Raises BadDataset for data without masks."""

    metric = "mean_iou"

    def __init__(self, index: Index, config: RunConfig, task: SegmentationConfig) -> None:
        self.config, self.notes = config, []
        check_masks(index)
        self.classes = task.classes or read_classes(index.root)
        if not 2 <= len(self.classes) <= IGNORED:
            raise BadDataset(f"masks may hold 2 to {IGNORED} classes, not {len(self.classes)}")
        if len(task.class_weights) not in (0, len(self.classes)):
            raise BadDataset(
                f"{len(task.class_weights)} class_weights for {len(self.classes)} classes: "
                f"{', '.join(self.classes)}"
            )
        self.task = replace(task, classes=self.classes)
        if task.ignore is not None and 0 <= task.ignore < len(self.classes):
            name = self.classes[task.ignore]
            self.notes.append(f"task.ignore is the number of {name!r}: never learned or judged")
        found, self.left_out = with_masks(index, len(self.classes), task.ignore)
        bad = BadImages(index.root, dict.fromkeys(index.keys), config.data.max_bad_fraction)
        bad.add(self.left_out)
        self.train = found.split(config.data.train_split)
        self.val = found.split(config.data.val_split)

    def build(self) -> TrunkTask:
        return Segmenter(self.config.model, len(self.classes), self.task)

    def continues(self, card: dict[str, Any]) -> bool:
        return same_fields(card["task"], self.task, ("classes", "decoder"))

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Mean IoU of the validation split, at the native size of its images."""
        assert isinstance(module, Segmenter)
        module.eval()
        errors: list[BadImage] = []
        counts = PixelCounts.none(len(self.classes))
        for pack in validation_packs(self.val, self.config, world):
            errors.extend(pack.bad)
            masks = pack.batch.targets.get("mask", [])
            with torch.inference_mode(), autocast(world.device, dtype):
                found = module.classes(pack.batch.to(world.device), [m.shape for m in masks])
            for mine, mask in zip(found, masks, strict=True):
                counts += count_pixels(mine.cpu(), mask, len(self.classes), IGNORED)
        sums = sum_over_ranks([counts.images, *counts.confusion.flatten().tolist()], world)
        total = PixelCounts(torch.tensor(sums[1:]).long().view_as(counts.confusion), int(sums[0]))
        if total.images and not total.confusion.any():
            raise BadDataset(
                f"no pixel of the masks of the validation split of {self.val.root} has a class: "
                f"task.ignore is {self.task.ignore}"
            )
        values = {"mean_iou": total.mean_iou, "pixel_accuracy": total.pixel_accuracy}
        return Judged(values if total.images else {}, gather_over_ranks(errors, world))

    def card(self, dtype: str) -> ModelCard:
        return replace(card_of(self.config, dtype), task=self.task)

    def write(self, folder: Path) -> None:
        """Nothing: masks are found again with the data."""
