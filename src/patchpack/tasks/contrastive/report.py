"""Predictions and evaluations of image-text models as JSON, text and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from patchpack.inference.labels import LabelPrediction
from patchpack.metrics.retrieval import RECALL_AT
from patchpack.metrics.undefined import shown
from patchpack.tasks.classification.report import (
    accuracy_record,
    accuracy_summary,
    confusion_picture,
)
from patchpack.tasks.contrastive.evaluator import ContrastiveEvaluator
from patchpack.tasks.contrastive.predictor import ImageTextPredictor
from patchpack.tasks.task import Evaluation, Report
from patchpack.visualize.tables import new_table

DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}


class ContrastiveReport(Report):
    """Zero-shot labels; recall in both directions, zero-shot accuracy."""

    def to_json(self, prediction: LabelPrediction) -> dict[str, Any]:
        return prediction.to_json()

    def to_text(self, prediction: LabelPrediction) -> str:
        return prediction.to_text()

    def record(
        self, evaluations: Sequence[Evaluation], predictor: ImageTextPredictor
    ) -> dict[str, Any]:
        record: dict[str, Any] = {}
        if evaluations[-1].result.recalls is not None:
            record["retrieval"] = [
                cost.to_json()
                | {"images": r.images, "texts": r.texts, **r.recalls, "notes": list(r.notes)}
                for cost, r in evaluations
            ]
        if evaluations[-1].result.counts is not None:
            record["budgets"] = accuracy_record(evaluations, evaluations[-1].result.classes)
        return record

    def summary(
        self, evaluations: Sequence[Evaluation], predictor: ImageTextPredictor
    ) -> Iterator[Any]:
        last = evaluations[-1].result
        if last.recalls is not None:
            yield f"{last.images:,} images, {last.texts:,} texts: recall at k"
            rows = new_table("tokens", "from … to", *(f"recall@{k}" for k in RECALL_AT), "images/s")
            for cost, result in evaluations:
                for name, title in DIRECTIONS.items():
                    cells = [shown(result.recalls[f"{name}@{k}"], ".4f") for k in RECALL_AT]
                    rows.add_row(f"{cost.max_tokens}", title, *cells, f"{cost.images_per_s:,.0f}")
            yield rows
        if last.counts is not None:
            yield from accuracy_summary(evaluations, last.classes)
        else:
            yield from last.notes

    def pictures(
        self,
        evaluations: Sequence[Evaluation],
        predictor: ImageTextPredictor,
        evaluator: ContrastiveEvaluator,
    ) -> Mapping[str, Image.Image]:
        result = evaluations[-1].result
        return {} if result.counts is None else confusion_picture(result.counts, result.classes)
