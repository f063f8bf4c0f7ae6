"""Classification of images and clips: one label each, by softmax or sigmoids."""

from patchpack.metrics.metric import Metric
from patchpack.tasks.classification.evaluator import ClassificationEvaluator
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.classification.options import (
    ClassificationEvalOptions,
    ClassificationPredictOptions,
    evaluation,
    label_scorer,
    predict,
)
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.classification.report import ClassificationReport
from patchpack.tasks.classification.task import build, prepare
from patchpack.tasks.classification.video_predictor import VideoClassificationPredictor
from patchpack.tasks.task import TaskSpec

CLASSIFICATION = TaskSpec(
    name="classification",
    config=ClassificationConfig,
    metric=Metric("top1"),
    prepare=prepare,
    build=build,
    head_key=lambda spec: spec.classes,
    predictor=lambda spec: (
        VideoClassificationPredictor if spec.input.tubelets else ClassificationPredictor
    ),
    evaluation=evaluation,
    run_evaluator=lambda run: ClassificationEvaluator(run.val),
    report=ClassificationReport(),
    predict=predict,
    predict_options=ClassificationPredictOptions,
    eval_options=ClassificationEvalOptions,
    label_scorer=label_scorer,
    has_annotations=lambda index: bool(index.classes),
    annotation_name="class labels",
    needs_labels=True,
    supports_video=True,
)
