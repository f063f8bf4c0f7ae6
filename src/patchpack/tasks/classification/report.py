"""Predictions and evaluations of classifiers as JSON, text and pictures."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from patchpack.data.images import BadImage
from patchpack.data.video.decode import decode_frames
from patchpack.inference.labels import LabelPrediction
from patchpack.metrics.classification import ClassificationCounts, table
from patchpack.metrics.undefined import shown
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.task import Evaluation, Evaluator, Report
from patchpack.visualize.contact_sheet import EVAL_SIDE, Hit, draw_hits, evenly_spaced
from patchpack.visualize.tables import class_lines, new_table

FRAMES = 8  # per clip in the picture
DRAWN = 60  # classes in the picture of the confusion matrix


class ClassificationReport(Report):
    """Labels with probabilities; accuracy, per-class accuracy and the confusion matrix."""

    def to_json(self, prediction: LabelPrediction) -> dict[str, Any]:
        return prediction.to_json()

    def to_text(self, prediction: LabelPrediction) -> str:
        return prediction.to_text()

    def record(
        self, evaluations: Sequence[Evaluation], predictor: ClassificationPredictor
    ) -> dict[str, Any]:
        return {"budgets": accuracy_record(evaluations, predictor.classes)}

    def summary(
        self, evaluations: Sequence[Evaluation], predictor: ClassificationPredictor
    ) -> Iterator[Any]:
        return accuracy_summary(evaluations, predictor.classes)

    def pictures(
        self,
        evaluations: Sequence[Evaluation],
        predictor: ClassificationPredictor,
        evaluator: Evaluator,
    ) -> Mapping[str, Image.Image]:
        cost, result = evaluations[-1]
        pictures = confusion_picture(result.counts, predictor.classes)
        if evaluator.index.clips is None:
            return pictures
        return {**pictures, "eval": _draw_clips(predictor, evaluator, cost.max_tokens)}


def accuracy_record(evaluations: Sequence[Evaluation], classes: Sequence[str]) -> list[dict]:
    """Accuracy at each budget as JSON; each result has `counts` and `notes`."""
    return [
        cost.to_json() | table(result.counts, classes) | {"notes": list(result.notes)}
        for cost, result in evaluations
    ]


def accuracy_summary(evaluations: Sequence[Evaluation], classes: Sequence[str]) -> Iterator[Any]:
    """Accuracy at each budget as a table, and accuracy per class at the last."""
    rows = new_table("tokens", "top-1", "top-5", "NLL", "GFLOP/image", "images/s", "images")
    for cost, result in evaluations:
        counts = result.counts
        rows.add_row(
            f"{cost.max_tokens}", shown(counts.top1, ".4f"), shown(counts.top5, ".4f"),
            shown(counts.mean_nll, ".4f"), f"{cost.gflops_per_image:.3f}",
            f"{cost.images_per_s:,.0f}",
            f"{counts.images}",
        )  # fmt: skip
    yield rows
    cost, last = evaluations[-1]
    yield from class_lines(
        f"accuracy at {cost.max_tokens} tokens", last.counts.per_class.tolist(), classes, ".1%"
    )
    yield from last.notes


def confusion_picture(
    counts: ClassificationCounts, classes: Sequence[str]
) -> dict[str, Image.Image]:
    """The confusion matrix of up to DRAWN classes, those with the most errors; nothing where the
    extra `report` is not installed."""
    try:
        from patchpack.visualize.figures import draw_confusion
    except ImportError:
        return {}
    drawn = counts.cells.most_confused(DRAWN)
    names = [classes[label] for label in drawn.tolist()]
    png = draw_confusion(counts.cells.among(drawn).numpy(), names, of=len(classes))
    return {"confusion": Image.open(io.BytesIO(png))}


def _draw_clips(predictor: Any, evaluator: Evaluator, tokens: int) -> Image.Image:
    """A strip of frames per clip, titled with the predicted label and the true one."""
    index, rows = evaluator.index, []
    clips, views = index.clips, len(evaluator.start_fractions)
    assert clips is not None
    for number in evenly_spaced(len(index)):
        key, length, rate = index.keys[number], int(clips.lengths[number]), clips.rates[number]
        frames = sorted({round(position) for position in np.linspace(0, length - 1, FRAMES)})
        try:
            pixels = list(
                decode_frames(
                    index.path(number), frames, rate, key=key, reading=predictor.spec.reading
                )
            )
            (prediction,) = predictor.predict(
                [index.path(number)], max_tokens=tokens, views=views, top=1
            )
        except BadImage:
            continue
        truth = index.label_of[key]
        title = f"{key}: {prediction.label} {prediction.probability:.0%}"
        if truth not in (None, prediction.label):
            title += f", true label {truth}"
        times = (f"{frame / rate:.2f} s" for frame in frames)
        hits = [Hit(image, time) for image, time in zip(pixels, times, strict=True)]
        rows.append((title, hits))
    return draw_hits(rows, EVAL_SIDE // 2)
