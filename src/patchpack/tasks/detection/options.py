"""Options of `predict` and `eval` for detectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patchpack.data.annotations.boxes import attach_boxes
from patchpack.data.images import BadImage
from patchpack.inference.measure import EvalData
from patchpack.inference.predictor import Unreadable
from patchpack.metrics.detection import MAX_DETECTIONS
from patchpack.tasks.contrastive.options import LabelsOptions
from patchpack.tasks.detection.evaluator import DetectionEvaluator
from patchpack.tasks.detection.predictor import SCORE_THRESHOLD, Box, DetectionPredictor


@dataclass(frozen=True, kw_only=True)
class DetectionPredictOptions(LabelsOptions):
    """Options of `predict` for detectors."""

    score_threshold: float = SCORE_THRESHOLD
    """Minimum score of a reported box, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class DetectionEvalOptions:
    """Options of `eval` for detectors."""

    max_detections: int = MAX_DETECTIONS
    """Detections per image that count for average precision."""


def predict(
    predictor: DetectionPredictor,
    images: Sequence[Any],
    options: DetectionPredictOptions,
    max_tokens: int | None,
    unreadable: Unreadable,
) -> list[list[Box]]:
    """The boxes of each image."""
    return predictor.predict(
        images, options.labels, max_tokens=max_tokens, score_threshold=options.score_threshold,
        unreadable=unreadable,
    )  # fmt: skip


def evaluation(
    predictor: DetectionPredictor, data: EvalData, options: DetectionEvalOptions
) -> tuple[DetectionEvaluator, Sequence[BadImage]]:
    """Average precision over images with boxes of the model's classes."""
    index, issues = attach_boxes(data.index, predictor.classes, data.max_bad_fraction)
    return DetectionEvaluator(index, options.max_detections, issues.messages()), issues.images
