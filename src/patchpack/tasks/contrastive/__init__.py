"""Contrastive pretraining on images and captions: retrieval, zero-shot classification, search."""

from patchpack.data.annotations.captions import has_captions
from patchpack.metrics.metric import Metric
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.contrastive.options import (
    ContrastiveEvalOptions,
    ContrastivePredictOptions,
    evaluation,
    label_scorer,
    predict,
)
from patchpack.tasks.contrastive.predictor import ImageTextPredictor
from patchpack.tasks.contrastive.report import ContrastiveReport
from patchpack.tasks.contrastive.task import build, prepare, run_evaluator
from patchpack.tasks.task import TaskSpec

CONTRASTIVE = TaskSpec(
    name="contrastive",
    config=ContrastiveConfig,
    metric=Metric("mean_recall"),  # over k: with few pairs, recall at a single k is mostly chance
    prepare=prepare,
    build=build,
    head_key=lambda spec: spec.tokenizer and spec.tokenizer.content,
    predictor=lambda spec: ImageTextPredictor,
    evaluation=evaluation,
    run_evaluator=run_evaluator,
    report=ContrastiveReport(),
    predict=predict,
    predict_options=ContrastivePredictOptions,
    eval_options=ContrastiveEvalOptions,
    label_scorer=label_scorer,
    has_annotations=has_captions,
    annotation_name="texts",
)
