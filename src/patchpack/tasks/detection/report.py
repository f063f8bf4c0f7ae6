"""Predictions and evaluations of detectors as JSON, text, COCO files and pictures."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from patchpack.data.annotations.boxes import BoxAnnotations
from patchpack.data.images import Pixels, decode, read_size
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.sources.coco import SUFFIX, CocoImage, to_coco
from patchpack.inference.output_files import check_new, make_folder
from patchpack.metrics.detection import STATS
from patchpack.metrics.undefined import shown
from patchpack.printable import printable
from patchpack.tasks.detection.evaluator import DetectionEvaluator
from patchpack.tasks.detection.file_ids import choose_ids
from patchpack.tasks.detection.options import DetectionPredictOptions
from patchpack.tasks.detection.predictor import SCORE_THRESHOLD, Box, DetectionPredictor
from patchpack.tasks.task import Evaluation, Report
from patchpack.visualize.contact_sheet import EVAL_SIDE, Hit, draw_hits, evenly_spaced
from patchpack.visualize.overlay import palette
from patchpack.visualize.tables import class_lines, new_table
from patchpack.writing import write_new

GROUND_TRUTH = (40, 220, 90)  # color of the boxes of the data


class DetectionReport(Report):
    """Boxes with scores; average precision; boxes over images."""

    def to_json(self, prediction: list[Box]) -> dict[str, Any]:
        return {"boxes": [asdict(box) for box in prediction]}

    def to_text(self, prediction: list[Box]) -> str:
        lines = [f"{len(prediction)} detections"]
        lines += [
            f"  {printable(box.label)} {box.score:.1%} at left {box.left:.0f}, top {box.top:.0f}, "
            f"{box.right - box.left:.0f} x {box.bottom - box.top:.0f} px"
            for box in prediction
        ]
        return "\n".join(lines)

    def record(
        self, evaluations: Sequence[Evaluation], predictor: DetectionPredictor
    ) -> dict[str, Any]:
        budgets = [
            cost.to_json() | asdict(result.precision) | {"notes": result.notes}
            for cost, result in evaluations
        ]
        last = evaluations[-1].result
        notes = {"data_notes": list(last.data_notes)}
        return {"max_detections": last.max_detections, "budgets": budgets} | notes

    def summary(
        self, evaluations: Sequence[Evaluation], predictor: DetectionPredictor
    ) -> Iterator[Any]:
        cost, last = evaluations[-1]
        yield (
            f"{last.precision.images:,} images, {last.precision.objects:,} objects; the best "
            f"{last.max_detections} detections per image count"
        )
        yield from last.data_notes
        titles = ("AP", "AP50", "AP75", "small", "medium", "large")
        rows = new_table("tokens", *titles, "GFLOP", "images/s")
        for budget, result in evaluations:
            rows.add_row(
                f"{budget.max_tokens}",
                *(shown(getattr(result.precision, name), ".3f") for name in STATS),
                f"{budget.gflops_per_image:.2f}",
                f"{budget.images_per_s:,.1f}",
            )
        yield rows
        per_class = last.precision.per_class
        if len(per_class) > 1:
            yield from class_lines(
                f"AP at {cost.max_tokens} tokens", [*per_class.values()], [*per_class], ".3f"
            )
        yield from last.notes

    def pictures(
        self,
        evaluations: Sequence[Evaluation],
        predictor: DetectionPredictor,
        evaluator: DetectionEvaluator,
    ) -> Mapping[str, Image.Image]:
        return {
            "eval": draw_detections(
                evaluator, evaluations[-1].result.detections, predictor.spec.reading
            )
        }


class CocoWriter:
    """Writes all predictions as one COCO file, with image paths relative to its folder, and the ids
    of the COCO file that the model was trained on.

    Raises ValueError for a name that does not end in .json, and where the file exists.
    """

    def __init__(
        self,
        output: Path,
        predictor: DetectionPredictor,
        paths: Sequence[Path],
        options: DetectionPredictOptions,
    ) -> None:
        if output.is_dir():
            raise ValueError(f"{output} is a folder: name the COCO file to write")
        if output.suffix.lower() != SUFFIX:
            raise ValueError(f"{output} does not end in {SUFFIX}: name the COCO file to write")
        check_new([output])
        make_folder(output.parent)
        self.output, self.names = output, list(options.labels or predictor.classes)
        self.sources = predictor.spec.source_ids
        self.paths: list[Path] = []
        self.images: list[CocoImage] = []
        self.reading = predictor.spec.reading

    def add(self, path: Path, prediction: list[Box]) -> None:
        self.paths.append(path)
        height, width = read_size(path, self.reading)
        sides = [(box.top, box.left, box.bottom, box.right) for box in prediction]
        self.images.append(
            CocoImage(
                os.path.relpath(path, self.output.parent),
                height,
                width,
                np.array(sides).reshape(-1, 4),
                np.array([self.names.index(box.label) for box in prediction], np.int64),
                scores=np.array([box.score for box in prediction]),
            )
        )

    def close(self) -> Path:
        ids = choose_ids(self.sources, self.paths, self.names)
        content = to_coco(self.images, self.names, ids.images, ids.classes)
        if self.sources:
            content["info"] = {"description": ids.description}
            if ids.known < len(self.paths):
                print(
                    f"patchpack: {printable(self.output)}: {printable(ids.description)}",
                    file=sys.stderr,
                )
        write_new(self.output, (json.dumps(content) + "\n").encode())
        return self.output


def draw_detections(
    evaluator: DetectionEvaluator,
    detections: Mapping[str, Any],
    reading: ReadingConfig = DEFAULT_READING,
) -> Image.Image:
    """Images with their ground-truth boxes in green, and below with the detections, a color per
    class."""
    index = evaluator.index
    boxes = index.annotation(BoxAnnotations)
    truths, predictions = [], []
    numbers = [number for number in range(len(index)) if index.keys[number] in detections]
    for number in (numbers[i] for i in evenly_spaced(len(numbers))):
        key, truth = index.keys[number], boxes.images[number]
        pixels = decode(index.path(number), key=key, reading=reading)
        detected = detections[key]
        shown = detected.scores >= SCORE_THRESHOLD
        colors = palette()[detected.labels[shown] % 255 + 1].tolist()
        green = [GROUND_TRUTH] * len(truth.boxes)
        truths.append(Hit(_boxed(pixels, truth.boxes, green), key.rpartition("/")[2]))
        title = f"{shown.sum()} detections, {len(truth.boxes)} objects"
        predictions.append(Hit(_boxed(pixels, detected.boxes[shown], colors), title))
    below = f"detections with a score of at least {SCORE_THRESHOLD}"
    return draw_hits([("ground truth", truths), (below, predictions)], EVAL_SIDE)


def _boxed(pixels: Pixels, boxes: np.ndarray, colors: Sequence[Sequence[int]]) -> Pixels:
    """Boxes drawn after the image is shrunk, so that every line is one pixel wide."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = min(1.0, EVAL_SIDE / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size])  # pyrefly: ignore
    draw = ImageDraw.Draw(image)
    for (top, left, bottom, right), color in zip(boxes * scale, colors, strict=True):
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=tuple(color))
    return np.asarray(image)
