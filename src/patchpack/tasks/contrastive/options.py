"""Options of `predict` and `eval` for image-text models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from patchpack.batch import PackedBatch
from patchpack.data.annotations.captions import NoTexts, attach_captions, read_captions
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.inference.labels import LabelPrediction
from patchpack.inference.measure import EvalData
from patchpack.inference.predictor import Unreadable
from patchpack.inference.text_files import read_lines
from patchpack.metrics.outputs import ModelOutput
from patchpack.tasks.classification.options import TopOptions
from patchpack.tasks.contrastive.evaluator import ContrastiveEvaluator
from patchpack.tasks.contrastive.predictor import PLAIN, ImageTextPredictor
from patchpack.tasks.task import LabelScorer


@dataclass(frozen=True, kw_only=True)
class LabelsOptions:
    """Class names given as text."""

    labels: tuple[str, ...] = ()
    """Class names to choose from or to detect, for models that read texts."""


@dataclass(frozen=True, kw_only=True)
class TemplateOptions:
    """Prompts around a class name."""

    templates: Path | None = None
    """File of prompts, one per line, with {} in place of a class name."""


@dataclass(frozen=True, kw_only=True)
class ContrastivePredictOptions(TopOptions, LabelsOptions, TemplateOptions):
    """Options of `predict` for image-text models."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveEvalOptions(TemplateOptions):
    """Options of `eval` for image-text models."""


def read_templates(path: Path | None) -> Sequence[str]:
    """The prompts of a file, or the bare class name."""
    return PLAIN if path is None else read_lines(path)


def predict(
    predictor: ImageTextPredictor,
    images: Sequence[Any],
    options: ContrastivePredictOptions,
    max_tokens: int | None,
    unreadable: Unreadable,
) -> list[LabelPrediction]:
    """Zero-shot labels of images."""
    if not options.labels:
        raise ValueError("an image-text model needs --labels to choose from")
    return predictor.predict(
        images, options.labels, templates=read_templates(options.templates),
        max_tokens=max_tokens, top=options.top, unreadable=unreadable,
    )  # fmt: skip


def evaluation(
    predictor: ImageTextPredictor, data: EvalData, options: ContrastiveEvalOptions
) -> tuple[ContrastiveEvaluator, list[BadImage]]:
    """Retrieval where the data have captions, zero-shot accuracy where they have labels."""
    templates = read_templates(options.templates) if data.index.classes else None
    captioned = None
    try:
        texts = read_captions(data.index)
    except NoTexts:
        if templates is None:
            raise
    else:
        assert predictor.spec.tokenizer is not None
        max_length = predictor.model.config.text.max_length
        pairs = attach_captions(data.index, texts, predictor.spec.tokenizer, max_length)
        keys = dict.fromkeys(data.index.keys)  # without classes: a class may have no captions
        BadImages(data.index.root, keys, data.max_bad_fraction, pairs.without_text).check()
        captioned = pairs.index
    index = data.index if templates is not None or captioned is None else captioned
    return ContrastiveEvaluator(index, captioned, templates), []


def label_scorer(
    predictor: ImageTextPredictor,
    data: EvalData,
    label_map: Mapping[str, str] | None,
    templates: Sequence[str],
) -> LabelScorer:
    """Zero-shot logits of the data's class names."""
    classes = data.index.classes
    names = torch.from_numpy(predictor.embed_classes(classes, templates))

    def score(batch: PackedBatch) -> ModelOutput:
        vectors = predictor.vectors(batch)
        return ModelOutput(predictor.scale * vectors @ names.T, vectors)

    return LabelScorer(data, score, (classes, tuple(templates)))
