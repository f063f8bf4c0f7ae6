"""`patchpack eval` and `predict` of a detector: average precision, boxes, COCO files of them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from patchpack.data.annotations.boxes import BoxAnnotations
from patchpack.data.images import BadImage, Pixels, decode
from patchpack.data.index import Index
from patchpack.data.sources.coco import SUFFIX, CocoImage, to_coco
from patchpack.evaluation import Data, detect_at
from patchpack.inference.image_files import image_files, read_groups
from patchpack.inference.output_files import check_new, make_folder
from patchpack.metrics.detection import STATS, Detections
from patchpack.tasks.detection.predictor import SCORE_THRESHOLD, DetectionPredictor
from patchpack.visualize.contact_sheet import EVAL_SIDE, Hit, draw_hits, evenly_spaced
from patchpack.visualize.overlay import palette
from patchpack.visualize.tables import cost_of, new_table

TRUTH = (40, 220, 90)  # colour of the boxes that are true


def eval_boxes(
    model: DetectionPredictor,
    data: Data,
    budgets: Sequence[int],
    *,
    most: int,
    out: Path,
    name: str,
    as_json: bool,
) -> None:
    """Judge at each budget, print, and leave the figures in `out`."""
    results = detect_at(model, data, budgets, most)
    figures = [{**cost_of(r), **asdict(r.precision)} for r in results]
    record = {"run": name, "max_boxes": most, "budgets": figures}
    make_folder(out.parent)
    out.write_text(json.dumps(record, indent=1) + "\n")
    picture = out.with_name(f"{out.stem}.png")
    draw_found(results[-1].index, results[-1].found).save(picture)
    if as_json:
        print(json.dumps(record))
        return
    console = Console(markup=False, highlight=False)
    titles = ("AP", "AP50", "AP75", "small", "medium", "large")
    looked = results[-1].precision
    console.print(
        f"{looked.images:,} images, {looked.objects:,} objects; the {most} best boxes of an image"
    )
    rows = new_table("tokens", *titles, "GFLOP", "images/s")
    for r in results:
        rows.add_row(
            f"{r.max_tokens}", *(_figure(getattr(r.precision, stat)) for stat in STATS),
            f"{r.gflops_per_image:.2f}", f"{r.images_per_s:,.1f}",
        )  # fmt: skip
    console.print(rows)
    if len(model.names) > 1:
        console.print(f"AP of each class at {results[-1].max_tokens} tokens:")
        for label, value in results[-1].precision.per_class.items():
            console.print(f"  {_figure(value)}  {label}")
    for error in results[-1].unreadable:
        console.print(f"left out: {error}", soft_wrap=True)
    console.print(f"{out}, {picture}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def predict_boxes(
    model: DetectionPredictor, images: Sequence[Path], labels: Sequence[str], *,
    max_tokens: int | None, score_threshold: float, output: Path | None, as_json: bool, bad: list[BadImage],
) -> None:  # fmt: skip
    """Print the objects of each image; with `output`, write all as one COCO file, in which images
    are told by where they lie from there."""
    if output:
        if output.is_dir():
            raise ValueError(f"{output} is a folder: name the COCO file to write")
        if output.suffix.lower() != SUFFIX:
            raise ValueError(f"{output} does not end in {SUFFIX}: name the COCO file to write")
        check_new([output])
        make_folder(output.parent)
    names = list(labels or model.names)
    coco: list[CocoImage] = []
    for paths, pixels in read_groups(image_files(images), bad):
        answers = model.predict(
            pixels, labels, max_tokens=max_tokens, score_threshold=score_threshold
        )
        for path, image, boxes in zip(paths, pixels, answers, strict=True):
            height, width = image.shape[:2]
            corners = [(box.top, box.left, box.bottom, box.right) for box in boxes]
            coco.append(
                CocoImage(
                    _seen_from(output, path),
                    height,
                    width,
                    np.array(corners).reshape(-1, 4),
                    np.array([names.index(box.label) for box in boxes], np.int64),
                    scores=np.array([box.score for box in boxes]),
                )
            )
            if as_json:
                print(json.dumps({"image": str(path), "boxes": [asdict(box) for box in boxes]}))
                continue
            print(f"{path}: {len(boxes)} found")
            for box in boxes:
                print(f"  {box.label} {box.score:.1%} at left {box.left:.0f}, top {box.top:.0f}, "
                      f"{box.right - box.left:.0f} x {box.bottom - box.top:.0f} px")  # fmt: skip
    if output:
        output.write_text(json.dumps(to_coco(coco, names)) + "\n")
        if not as_json:
            print(output)


def _seen_from(output: Path | None, path: Path) -> str:
    return os.path.relpath(path, output.parent) if output else str(path)


def draw_found(index: Index, found: Mapping[str, Detections]) -> Image.Image:
    """Images with their objects in green, and below with what was found, a colour a class."""
    annotations = index.annotation(BoxAnnotations)
    truths, answers = [], []
    numbers = [number for number in range(len(index)) if index.keys[number] in found]
    for number in (numbers[place] for place in evenly_spaced(len(numbers))):
        key, there = index.keys[number], annotations.images[number]
        pixels = decode(index.path(number), key=key)
        mine = found[key]
        sure = mine.scores >= SCORE_THRESHOLD
        colours = palette()[mine.labels[sure] % 255 + 1].tolist()
        green = [TRUTH] * len(there.boxes)
        truths.append(Hit(_boxed(pixels, there.boxes, green), key.rpartition("/")[2]))
        title = f"{sure.sum()} found, {len(there.boxes)} there"
        answers.append(Hit(_boxed(pixels, mine.boxes[sure], colours), title))
    return draw_hits(
        [("objects", truths), (f"found, score {SCORE_THRESHOLD} or more", answers)], EVAL_SIDE
    )


def _boxed(pixels: Pixels, boxes: np.ndarray, colours: Sequence[Sequence[int]]) -> Pixels:
    """Drawn on an image that is already shrunk, so that every line is as thin as it can be."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = min(1.0, EVAL_SIDE / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size])  # pyrefly: ignore
    draw = ImageDraw.Draw(image)
    for (top, left, bottom, right), colour in zip(boxes * scale, colours, strict=True):
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=tuple(colour))
    return np.asarray(image)
