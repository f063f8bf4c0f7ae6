"""Object detection: a box and a class from every token, with fixed or open vocabulary."""

from patchpack.data.annotations.boxes import has_boxes
from patchpack.metrics.metric import Metric
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.tasks.detection.options import (
    DetectionEvalOptions,
    DetectionPredictOptions,
    evaluation,
    predict,
)
from patchpack.tasks.detection.predictor import DetectionPredictor
from patchpack.tasks.detection.report import CocoWriter, DetectionReport
from patchpack.tasks.detection.task import build, head_key, prepare, run_evaluator
from patchpack.tasks.task import TaskSpec

DETECTION = TaskSpec(
    name="detection",
    config=DetectionConfig,
    metric=Metric("ap"),
    prepare=prepare,
    build=build,
    head_key=head_key,
    predictor=lambda spec: DetectionPredictor,
    evaluation=evaluation,
    run_evaluator=run_evaluator,
    report=DetectionReport(),
    predict=predict,
    predict_options=DetectionPredictOptions,
    eval_options=DetectionEvalOptions,
    writer=CocoWriter,
    has_annotations=has_boxes,
    annotation_name="boxes",
    supports_mosaic=True,
)
