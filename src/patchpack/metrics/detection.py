"""How well objects are found: average precision as COCO defines it (Lin et al., arXiv 1405.0312).

The counting is done by `faster-coco-eval` (extra `detection`), whose figures are those of
pycocotools. COCO looks at the 100 best boxes of an image: too few where one holds more objects.

Axes: box.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from patchpack.data.index import Index

MAX_DETECTIONS = 100  # boxes of an image that are looked at
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first."""

    boxes: Float[np.ndarray, "box 4"]  # (top, left, bottom, right), px of the image
    scores: Float[np.ndarray, " box"]
    labels: Int[np.ndarray, " box"]


@dataclass(frozen=True, kw_only=True)
class DetectionMetrics:
    """Average precision over IoU 0.50 to 0.95, at 0.50 and 0.75, and by size of object: up to 32²,
    96² and more pixels. None where there is no such object."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: Mapping[str, float | None]
    images: int
    objects: int


def need_detection() -> None:
    """Raise ImportError where the extra `detection` is not installed."""
    try:
        import faster_coco_eval  # noqa: F401
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"detection needs pip install 'patchpack[detection]' ({error})"
        ) from error


def average_precision(
    index: Index, found: Mapping[str, Detections], most: int = MAX_DETECTIONS
) -> DetectionMetrics:
    """Of the images of an index that were looked at, by their keys.

    most  boxes of an image that count, the best

    Raises ImportError where the extra `detection` is not installed.
    """
    need_detection()
    from faster_coco_eval import COCO, COCOeval_faster

    if most < 1:
        raise ValueError(f"at least one box of an image must count, not {most}")
    assert index.boxes is not None
    truth = coco_truth(index, found)
    classes = index.boxes.classes
    objects = sum(not annotation["iscrowd"] for annotation in truth["annotations"])
    results = coco_results(found, {image["file_name"]: image["id"] for image in truth["images"]})
    if not results or not objects:
        nothing = None if not objects else 0.0
        return DetectionMetrics(
            **dict.fromkeys(STATS, nothing), per_class=dict.fromkeys(classes, nothing),
            images=len(found), objects=objects,
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        known = COCO(truth)
        judged = COCOeval_faster(known, known.loadRes(results), "bbox", print_function=_silent)
        judged.params.maxDets = [1, min(10, most), most]  # it sorts them
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    precision = judged.eval["precision"]  # [IoU, recall, class, area, most]
    per_class = [_mean(precision[:, :, number, 0, -1]) for number in range(len(classes))]
    stats = {
        name: None if value < 0 else float(value)
        for name, value in zip(STATS, judged.stats, strict=False)
    }
    return DetectionMetrics(
        **stats, per_class=dict(zip(classes, per_class, strict=True)),
        images=len(found), objects=objects,
    )  # fmt: skip


def _silent(*words: object, **options: object) -> None: ...


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def coco_truth(index: Index, keys: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """The objects of some images of an index, as COCO has them."""
    assert index.boxes is not None
    images, annotations = [], []
    for number, key in enumerate(index.keys):
        if key not in keys:
            continue
        size = {"height": int(index.heights[number]), "width": int(index.widths[number])}
        images.append({"id": number + 1, "file_name": key, **size})
        there, crowds = index.boxes.images[number], index.boxes.crowds[number]
        areas = [{"area": area} for area in index.boxes.areas[number].tolist()]
        for some, more in ((there, areas), (crowds, [{"iscrowd": 1}] * len(crowds.labels))):
            annotations += [
                annotation(number + 1, label + 1, box) | own
                for box, label, own in zip(
                    some.boxes.tolist(), some.labels.tolist(), more, strict=True
                )
            ]
    for number, item in enumerate(annotations, 1):
        item["id"] = number
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(index.boxes.classes)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_results(
    found: Mapping[str, Detections], numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What was found, as COCO has results; numbers of categories count from 1."""
    return [
        annotation(numbers[key], label + 1, box) | {"score": score}
        for key, many in found.items()
        for box, score, label in zip(
            many.boxes.tolist(), many.scores.tolist(), many.labels.tolist(), strict=True
        )
    ]


def annotation(image: int, category: int, box: Sequence[float]) -> dict[str, Any]:
    """One box (top, left, bottom, right) as COCO has it, by the ids of its image and category."""
    top, left, bottom, right = box
    width, height = right - left, bottom - top
    return {
        "image_id": image, "category_id": category, "bbox": [left, top, width, height],
        "area": width * height, "iscrowd": 0,
    }  # fmt: skip
