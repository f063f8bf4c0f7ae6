"""Are objects found, and where they are?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from patchpack.batch import PackedBatch
from patchpack.data.annotations.boxes import attach_boxes
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.evaluation.run_data import Cost, Data, judged
from patchpack.metrics.detection import (
    MAX_DETECTIONS,
    DetectionMetrics,
    Detections,
    average_precision,
)
from patchpack.tasks.detection.predictor import DetectionPredictor


@dataclass(frozen=True, kw_only=True)
class BoxResult(Cost):
    """How well objects were found at one token budget."""

    precision: DetectionMetrics
    found: dict[str, Detections]  # by the key of the image
    index: Index  # of the images, with their objects


def detect_at(
    model: DetectionPredictor, data: Data, budgets: Sequence[int], most: int = MAX_DETECTIONS
) -> list[BoxResult]:
    """Average precision at each budget, in pixels of the images on disk, of the `most` best boxes
    of each image.

    Raises BadDataset for data without boxes, and where too many images cannot be used.
    """
    index, faults = attach_boxes(data.index, model.names, data.max_bad_fraction)
    bad = data.bad_images()
    bad.add(faults.images)
    data = replace(data, index=index)
    sizes = {key: (int(index.heights[i]), int(index.widths[i])) for i, key in enumerate(index.keys)}
    results = []
    for tokens in budgets:
        found: dict[str, Detections] = {}

        def keep(packs: Iterator[PackedBatch], found=found) -> None:
            for batch in packs:
                boxes = model.boxes(batch, [sizes[key] for key in batch.keys])
                found.update(zip(batch.keys, boxes, strict=True))

        cost = judged(model, data, tokens, bad, keep)
        if not found:
            raise BadDataset(f"no image of {index.root} can be read")
        precision = average_precision(index, found, most)
        results.append(BoxResult(**cost, precision=precision, found=found, index=index))
    return results
