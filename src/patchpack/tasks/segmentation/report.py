"""Predictions and evaluations of segmenters as JSON, text, masks and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchpack.data.annotations.mask_values import encode
from patchpack.data.annotations.masks import Masks, read_mask
from patchpack.data.images import BadImage, Pixels, decode
from patchpack.inference.output_files import check_new, make_folder, write_picture
from patchpack.metrics.segmentation import table
from patchpack.metrics.undefined import shown
from patchpack.printable import printable
from patchpack.tasks.segmentation.evaluator import SegmentationEvaluator, SlidingWindowEvaluator
from patchpack.tasks.segmentation.predictor import SegmentationPredictor, SegmentedImage
from patchpack.tasks.task import Evaluation, Report
from patchpack.visualize.contact_sheet import EVAL_SIDE, Hit, draw_hits, evenly_spaced
from patchpack.visualize.overlay import overlay, palette
from patchpack.visualize.tables import class_lines, new_table


class SegmentationReport(Report):
    """The share of each class; IoU and pixel accuracy; masks over images."""

    def to_json(self, prediction: SegmentedImage) -> dict[str, Any]:
        return {"shares": {name: round(share, 6) for name, share in prediction.shares.items()}}

    def to_text(self, prediction: SegmentedImage) -> str:
        return ", ".join(
            f"{printable(name)} {share:.1%}" for name, share in prediction.shares.items()
        )

    def record(
        self, evaluations: Sequence[Evaluation], predictor: SegmentationPredictor
    ) -> dict[str, Any]:
        budgets = [
            cost.to_json() | table(result.counts, predictor.classes) | {"notes": list(result.notes)}
            for cost, result in evaluations
        ]
        return {"budgets": budgets}

    def summary(
        self, evaluations: Sequence[Evaluation], predictor: SegmentationPredictor
    ) -> Iterator[Any]:
        rows = new_table(
            "tokens", "mean IoU", "pixel accuracy", "GFLOP/image", "images/s", "images"
        )
        for cost, result in evaluations:
            counts = result.counts
            rows.add_row(
                f"{cost.max_tokens}", shown(counts.mean_iou, ".4f"),
                shown(counts.pixel_accuracy, ".4f"), f"{cost.gflops_per_image:.3f}",
                f"{cost.images_per_s:,.1f}", f"{counts.images}",
            )  # fmt: skip
        yield rows
        cost, result = evaluations[-1]
        yield from class_lines(
            f"IoU at {cost.max_tokens} tokens", result.counts.iou.tolist(), predictor.classes, ".1%"
        )
        yield from result.notes

    def pictures(
        self,
        evaluations: Sequence[Evaluation],
        predictor: SegmentationPredictor,
        evaluator: SegmentationEvaluator,
    ) -> Mapping[str, Image.Image]:
        return {"eval": _draw_masks(predictor, evaluator, evaluations[-1].cost.max_tokens)}


class MaskWriter:
    """Writes each mask as a PNG into one folder: of class numbers with a color palette, or of the
    values or colors of the masks that the model was trained on.

    Two images of one name get masks of different names. Raises ValueError where a file exists.
    """

    def __init__(
        self, folder: Path, predictor: SegmentationPredictor, paths: Sequence[Path], options: object
    ) -> None:
        files = dict.fromkeys(paths)
        self.files = {
            path: folder / name for path, name in zip(files, _mask_names(files), strict=True)
        }
        self.encoding = predictor.spec.task.encoding  # pyrefly: ignore
        make_folder(folder)
        check_new(self.files.values())

    def add(self, path: Path, prediction: SegmentedImage) -> Path:
        image = encode(prediction.mask, self.encoding, palette().ravel().tolist())
        write_picture(self.files[path], image)
        return self.files[path]

    def close(self) -> None:
        """Every mask is written already."""


def _mask_names(paths: Mapping[Path, object]) -> Iterator[str]:
    """A file name for the mask of each image, unique among them."""
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        yield f"{name}.png"


def _draw_masks(
    predictor: SegmentationPredictor, evaluator: SegmentationEvaluator, tokens: int
) -> Image.Image:
    """Images, their masks, and the predicted masks, one above the other."""
    index = evaluator.index
    masks = index.annotation(Masks)
    shown: list[tuple[str, Pixels, np.ndarray]] = []
    for number in evenly_spaced(len(index)):
        key = index.keys[number]
        try:
            pixels = decode(index.path(number), key=key, reading=predictor.spec.reading)
            mask = read_mask(masks.spec(index.root, number), pixels.shape[:2], key)
            shown.append((key, pixels, mask))
        except BadImage:
            continue
    images = [pixels for _, pixels, _ in shown]
    predictions = predictor.predict(
        images, max_tokens=tokens, sliding_window=isinstance(evaluator, SlidingWindowEvaluator)
    )
    rows = [
        ("images", [Hit(pixels, key.rpartition("/")[2]) for key, pixels, _ in shown]),
        ("ground truth", [Hit(overlay(pixels, mask), "") for _, pixels, mask in shown]),
        (f"predictions at {tokens} tokens", [
            Hit(overlay(pixels, prediction.mask), "")
            for pixels, prediction in zip(images, predictions, strict=True)
        ]),
    ]  # fmt: skip
    return draw_hits(rows, EVAL_SIDE)
