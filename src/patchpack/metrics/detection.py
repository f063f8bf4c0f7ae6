"""Object detection metrics: COCO average precision (Lin et al., arXiv 1405.0312).

`faster-coco-eval` (extra `detection`) computes it and returns the same numbers as pycocotools.
COCO evaluates the 100 highest-scoring boxes per image; that is too few for images with more
objects.

Axes: box.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from patchpack.data.annotations.boxes import BoxAnnotations
from patchpack.data.index import Index
from patchpack.data.sources.coco import CocoImage, to_coco

MAX_DETECTIONS = 100  # boxes per image that count, highest scores first
NAMED = 5  # images that an error lists
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True, eq=False)
class Detections:
    """The predicted boxes of one image."""

    boxes: Float[np.ndarray, "box 4"]  # (top, left, bottom, right), px of the original image
    scores: Float[np.ndarray, " box"]  # in [0, 1]
    labels: Int[np.ndarray, " box"]  # class indices


@dataclass(frozen=True, kw_only=True)
class DetectionMetrics:
    """COCO average precision, each in [0, 1]; higher is better. None without such objects.

    An image without predictions counts: its objects are missed.
    """

    ap: float | None  # mean over IoU thresholds 0.50, 0.55, …, 0.95 and classes
    ap50: float | None  # at IoU 0.50
    ap75: float | None  # at IoU 0.75
    ap_small: float | None  # objects of area < 32² px
    ap_medium: float | None  # 32² to 96² px
    ap_large: float | None  # > 96² px
    per_class: Mapping[str, float | None]  # `ap` of each class
    images: int
    objects: int  # ground truth boxes that are not crowds


def need_detection() -> None:
    """Raise ImportError if the extra `detection` is not installed."""
    try:
        import faster_coco_eval  # noqa: F401
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"detection needs pip install 'patchpack[detection]' ({error})"
        ) from error


def average_precision(
    index: Index, predictions: Mapping[str, Detections], max_detections: int = MAX_DETECTIONS
) -> DetectionMetrics:
    """Return COCO AP over the images of an index that have an entry in `predictions`.

    index           has the ground truth boxes, including crowd regions
    predictions     by image key; an image without detections needs an empty entry
    max_detections  boxes per image that count, highest scores first

    Raise ImportError if the extra `detection` is not installed, ValueError if max_detections < 1,
    and for boxes or scores that are not finite.
    """
    need_detection()
    from faster_coco_eval import COCO, COCOeval_faster

    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, not {max_detections}")
    rows = [row for row, key in enumerate(index.keys) if key in predictions]
    if len(rows) < len(predictions):
        raise ValueError(f"predictions for images that are not in the index of {index.root}")
    boxes = index.annotation(BoxAnnotations)
    classes = boxes.classes
    truth = to_coco([_truth(index, boxes, row) for row in rows], classes)
    objects = sum(not annotation["iscrowd"] for annotation in truth["annotations"])
    # COCO's table of precisions has 100 KB for each class: only those with objects are evaluated.
    present = sorted({int(label) for row in rows for label in boxes.images[row].labels})
    _check_finite(predictions)
    images = [_prediction(index, row, predictions[index.keys[row]]) for row in rows]
    results = to_coco(images, classes)["annotations"]
    if not objects:
        return DetectionMetrics(
            **dict.fromkeys(STATS), per_class=dict.fromkeys(classes),
            images=len(predictions), objects=objects,
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # COCO prints its progress
        ground_truth = COCO(truth)
        evaluator = COCOeval_faster(
            ground_truth, ground_truth.loadRes(results), "bbox", print_function=_silent
        )
        evaluator.params.maxDets = [1, min(10, max_detections), max_detections]  # sorted
        evaluator.params.catIds = [label + 1 for label in present]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"]  # [IoU, recall, class, area, maxDets]
    per_class: dict[str, float | None] = dict.fromkeys(classes)
    for number, label in enumerate(present):
        per_class[classes[label]] = _mean(precision[:, :, number, 0, -1])
    stats = {
        name: None if value < 0 else float(value)
        for name, value in zip(STATS, evaluator.stats, strict=False)
    }
    return DetectionMetrics(**stats, per_class=per_class, images=len(predictions), objects=objects)


def _truth(index: Index, annotations: BoxAnnotations, row: int) -> CocoImage:
    boxes, crowd = annotations.images[row], annotations.crowds[row]
    no_areas = np.full(len(crowd.labels), np.nan)
    return CocoImage(
        index.keys[row],
        int(index.heights[row]),
        int(index.widths[row]),
        np.concatenate([boxes.boxes, crowd.boxes]),
        np.concatenate([boxes.labels, crowd.labels]),
        areas=np.concatenate([annotations.areas[row], no_areas]),
        crowd=np.arange(len(boxes.labels) + len(crowd.labels)) >= len(boxes.labels),
    )


def _prediction(index: Index, row: int, pred: Detections) -> CocoImage:
    size = int(index.heights[row]), int(index.widths[row])
    return CocoImage(index.keys[row], *size, pred.boxes, pred.labels, scores=pred.scores)


def _check_finite(predictions: Mapping[str, Detections]) -> None:
    wrong = [
        key for key, pred in predictions.items()
        if not (np.isfinite(pred.boxes).all() and np.isfinite(pred.scores).all())
    ]  # fmt: skip
    if wrong:
        raise ValueError(
            f"the boxes or scores of {len(wrong)} of {len(predictions)} images are not finite "
            f"({', '.join(wrong[:NAMED])}): the model's weights are damaged or have diverged"
        )


def _silent(*words: object, **options: object) -> None: ...


def _mean(values: np.ndarray) -> float | None:
    defined = values[values > -1]  # COCO marks undefined precision with -1
    return float(defined.mean()) if defined.size else None
