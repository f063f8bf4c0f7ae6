"""Options of `predict` and `eval` for classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from patchpack.data.images import BadImage
from patchpack.inference.labels import LabelPrediction
from patchpack.inference.measure import EvalData
from patchpack.inference.predictor import Predictor, Unreadable
from patchpack.tasks.classification.evaluator import ClassificationEvaluator, relabel
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.task import LabelScorer


@dataclass(frozen=True, kw_only=True)
class TopOptions:
    """How many labels to give."""

    top: int = 5
    """Labels per image."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Views of a clip."""

    views: int = 1
    """Views per clip at evenly spaced start times, whose logits are averaged."""


@dataclass(frozen=True, kw_only=True)
class ClassificationPredictOptions(TopOptions, ViewOptions):
    """Options of `predict` for classifiers."""


@dataclass(frozen=True, kw_only=True)
class ClassificationEvalOptions(ViewOptions):
    """Options of `eval` for classifiers."""


def predict(
    predictor: Any,
    images: Sequence[Any],
    options: ClassificationPredictOptions,
    max_tokens: int | None,
    unreadable: Unreadable,
) -> list[LabelPrediction]:
    """Labels of images, or of clips over several views."""
    if predictor.spec.input.tubelets:
        return predictor.predict(
            images, max_tokens=max_tokens, top=options.top, views=options.views,
            unreadable=unreadable,
        )  # fmt: skip
    _check_views(predictor, options.views)
    return predictor.predict(images, max_tokens=max_tokens, top=options.top, unreadable=unreadable)


def evaluation(
    predictor: Predictor, data: EvalData, options: ClassificationEvalOptions
) -> tuple[ClassificationEvaluator, list[BadImage]]:
    """Accuracy on data whose classes the model was trained on."""
    assert isinstance(predictor, ClassificationPredictor)
    predictor.require_classes()
    _check_views(predictor, options.views)
    index = relabel(data.index, predictor.classes)
    return ClassificationEvaluator(index, options.views), []


def label_scorer(
    predictor: ClassificationPredictor,
    data: EvalData,
    label_map: Mapping[str, str] | None,
    templates: Sequence[str],
) -> LabelScorer:
    """The classifier's own logits."""
    predictor.require_classes()
    index = relabel(data.index, predictor.classes, label_map)
    return LabelScorer(replace(data, index=index), predictor.outputs, "classes")


def _check_views(predictor: Predictor, views: int) -> None:
    if views != 1 and not predictor.spec.input.tubelets:
        raise ValueError("--views is for video classifiers; this model takes images")
