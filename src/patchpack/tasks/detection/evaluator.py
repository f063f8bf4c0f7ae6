"""COCO average precision of a detector, in training and after it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from patchpack.batch import PackedBatch
from patchpack.data.index import Index
from patchpack.data.records import list_names
from patchpack.distributed import World, all_gather_objects
from patchpack.metrics.detection import (
    MAX_DETECTIONS,
    DetectionMetrics,
    Detections,
    average_precision,
)
from patchpack.tasks.detection.predictor import DetectionPredictor
from patchpack.tasks.task import Evaluator


@dataclass(frozen=True)
class DetectionResult:
    """Average precision, and the detections that it is of."""

    precision: DetectionMetrics
    detections: Mapping[str, Detections]  # by the key of the image
    max_detections: int
    data_notes: tuple[str, ...] = ()  # boxes of the data that are skipped, clipped or assumed

    @property
    def metrics(self) -> dict[str, float]:
        if not self.detections:
            return {}
        values = {name: getattr(self.precision, name) for name in ("ap", "ap50", "ap75")}
        return {name: math.nan if value is None else value for name, value in values.items()}

    @property
    def notes(self) -> list[str]:
        precision = self.precision
        absent = [name for name, value in precision.per_class.items() if value is None]
        if not precision.objects:
            return ["AP is undefined: no image has a box"]
        if not absent:
            return []
        number = len(precision.per_class)
        return [
            f"AP is over {number - len(absent):,} of {number:,} classes: no box is of "
            f"{list_names(absent)}"
        ]


class DetectionEvaluator(Evaluator):
    """Compares detections with the boxes of an index, in pixels of the image files.

    max_detections  detections per image that count, by score
    data_notes      messages on the boxes of the data, for the report
    """

    def __init__(
        self,
        index: Index,
        max_detections: int = MAX_DETECTIONS,
        data_notes: Sequence[str] = (),
    ) -> None:
        super().__init__(index)
        self.max_detections, self.data_notes = max_detections, tuple(data_notes)
        sizes = zip(index.heights.tolist(), index.widths.tolist(), strict=True)
        self._sizes: dict[str, tuple[int, int]] = dict(zip(index.keys, sizes, strict=True))

    def run(
        self,
        predictor: DetectionPredictor,
        batches: Iterable[PackedBatch],
        world: World | None = None,
    ) -> DetectionResult:
        local: list[tuple[str, Detections]] = []
        for batch in batches:
            detections = predictor.detect(batch, [self._sizes[key] for key in batch.keys])
            local += zip(batch.keys, detections, strict=True)
        detections = dict(all_gather_objects(local, world or World()))
        precision = average_precision(self.index, detections, self.max_detections)
        return DetectionResult(precision, detections, self.max_detections, self.data_notes)
