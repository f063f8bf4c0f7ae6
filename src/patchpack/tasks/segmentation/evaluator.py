"""Mean IoU of a segmenter at the native size of its images, in training and after it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import IGNORE_INDEX, PackedBatch
from patchpack.data.annotations.masks import Masks, read_mask
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage, Pixels, decode
from patchpack.data.index import Index
from patchpack.data.packing.resolution import Native
from patchpack.data.records import BadDataset, list_names
from patchpack.distributed import World, all_reduce_floats
from patchpack.metrics.segmentation import ConfusionMatrix, count_pixels
from patchpack.tasks.segmentation.predictor import SegmentationPredictor
from patchpack.tasks.segmentation.sliding_window import windows
from patchpack.tasks.task import Evaluator


@dataclass(frozen=True)
class SegmentationResult:
    """Counts over the pixels of one evaluation."""

    counts: ConfusionMatrix
    classes: tuple[str, ...]  # names of the rows and columns

    @property
    def metrics(self) -> dict[str, float]:
        counts = self.counts
        if not counts.images:
            return {}
        return {"mean_iou": counts.mean_iou, "pixel_accuracy": counts.pixel_accuracy}

    @property
    def notes(self) -> list[str]:
        counted, names = self.counts.counted.tolist(), self.classes
        absent = [name for name, used in zip(names, counted, strict=True) if not used]
        if not any(counted):
            return ["mean IoU is undefined: no pixel has a class"]
        if not absent:
            return []
        return [
            f"mean IoU is over {sum(counted)} of {len(names)} classes: no pixel is of "
            f"{list_names(absent)}, in the masks or predicted"
        ]


class SegmentationEvaluator(Evaluator):
    """Counts pixels by true and predicted class, at the size of the image file."""

    def __init__(self, index: Index, classes: Sequence[str], ignore_index: int | None) -> None:
        super().__init__(index)
        self.classes, self.ignore_index = tuple(classes), ignore_index

    def run(
        self,
        predictor: SegmentationPredictor,
        batches: Iterable[PackedBatch],
        world: World | None = None,
    ) -> SegmentationResult:
        counts = ConfusionMatrix.none(len(self.classes))
        for pred, mask in self._masks(predictor, batches):
            counts += count_pixels(pred, mask, len(self.classes), IGNORE_INDEX)
        if world is not None:
            counts = _all_reduce(counts, world)
        if counts.images and not counts.confusion.any():
            raise BadDataset(
                f"no pixel of the masks of {self.index.root} has a class: "
                f"task.ignore_index is {self.ignore_index}"
            )
        return SegmentationResult(counts, self.classes)

    def _masks(
        self, predictor: SegmentationPredictor, batches: Iterable[PackedBatch]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Predicted and true mask of each image."""
        for batch in batches:
            masks: Sequence[Tensor] = batch.targets.get("mask", [])  # pyrefly: ignore
            predicted = predictor.masks(batch, [mask.shape for mask in masks])
            yield from zip(predicted, masks, strict=True)


def _all_reduce(counts: ConfusionMatrix, world: World) -> ConfusionMatrix:
    """The sum over all processes."""
    values = [counts.images, *counts.confusion.flatten().tolist()]
    images, *cells = all_reduce_floats(values, world)
    return ConfusionMatrix(torch.tensor(cells).long().view_as(counts.confusion), int(images))


@dataclass(frozen=True, eq=False)
class WindowedImage:
    """One image at its native size, with the token counts of the windows over it."""

    pixels: Pixels
    mask: Tensor
    lengths: tuple[int, ...]
    num_images: int = 1


class SlidingWindowEvaluator(SegmentationEvaluator):
    """The same, where large images keep their size and are evaluated in overlapping windows."""

    tokens: int = 0  # per window, as the last call of `batches` set it

    def batches(  # pyrefly: ignore
        self, predictor: SegmentationPredictor, tokens: int, unreadable: BadImages
    ) -> Iterator[WindowedImage]:
        index, masks = self.index, self.index.annotation(Masks)
        self.tokens = tokens
        for number, key in enumerate(index.keys):
            try:
                pixels = decode(index.path(number), key=key, reading=predictor.spec.reading)
                mask = read_mask(masks.spec(index.root, number), pixels.shape[:2], key)
            except BadImage as error:
                unreadable.add([error])
                continue
            lengths = window_lengths(predictor, pixels.shape[:2], tokens)
            yield WindowedImage(pixels, torch.from_numpy(mask), lengths)

    def _masks(  # pyrefly: ignore
        self, predictor: SegmentationPredictor, batches: Iterable[WindowedImage]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for image in batches:
            (prediction,) = predictor.predict(
                [image.pixels], max_tokens=self.tokens, sliding_window=True
            )
            yield torch.from_numpy(prediction.mask), image.mask


def window_lengths(
    predictor: SegmentationPredictor, size: tuple[int, ...], tokens: int
) -> tuple[int, ...]:
    """Token counts of the windows over an image of (height, width)."""
    model = predictor.spec.model
    height, width = size
    sides = np.array([w[2:] for w in windows((height, width), model.patch_size, tokens)])
    grids = Native().grids(
        *sides.T, patch_size=model.patch_size, max_tokens=tokens, rng=np.random.default_rng(0),
        max_side=model.positions.max_side,
    )  # fmt: skip
    return tuple(grids.prod(1).tolist())
