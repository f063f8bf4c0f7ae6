"""Options of `predict` and `eval` for segmenters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patchpack.data.annotations.masks import (
    attach_drawn_masks,
    attach_masks,
    check_classes,
    has_mask_files,
    has_masks,
)
from patchpack.data.images import BadImage
from patchpack.inference.measure import EvalData
from patchpack.inference.predictor import Unreadable
from patchpack.tasks.segmentation.evaluator import SegmentationEvaluator, SlidingWindowEvaluator
from patchpack.tasks.segmentation.model import SegmentationConfig
from patchpack.tasks.segmentation.predictor import SegmentationPredictor, SegmentedImage


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    """Options of `predict` and `eval` for segmenters."""

    sliding_window: bool = False
    """Keep large images at full size and predict masks in overlapping windows of --max-tokens
    tokens, instead of resizing the image."""


def predict(
    predictor: SegmentationPredictor,
    images: Sequence[Any],
    options: SegmentationOptions,
    max_tokens: int | None,
    unreadable: Unreadable,
) -> list[SegmentedImage]:
    """A mask for each image."""
    return predictor.predict(
        images, max_tokens=max_tokens, sliding_window=options.sliding_window, unreadable=unreadable
    )


def evaluation(
    predictor: SegmentationPredictor, data: EvalData, options: SegmentationOptions
) -> tuple[SegmentationEvaluator, list[BadImage]]:
    """Mean IoU on images whose masks number the classes as the model does."""
    task, num_classes = predictor.spec.task, len(predictor.classes)
    assert isinstance(task, SegmentationConfig)
    index, encoding = data.index, task.encoding
    if has_mask_files(index) or not has_masks(index):
        if not data.is_own:
            encoding = check_classes(index.root, predictor.classes) or encoding
        index, without_mask = attach_masks(
            index, num_classes, task.ignore_index, encoding, predictor.spec.reading
        )
    else:
        index, without_mask, _ = attach_drawn_masks(index, predictor.classes, task.ignore_index)
    evaluator = SlidingWindowEvaluator if options.sliding_window else SegmentationEvaluator
    return evaluator(index, predictor.classes, task.ignore_index), without_mask
