"""Semantic segmentation: a class for every pixel."""

from patchpack.data.annotations.masks import has_masks
from patchpack.metrics.metric import Metric
from patchpack.tasks.segmentation.model import SegmentationConfig
from patchpack.tasks.segmentation.options import SegmentationOptions, evaluation, predict
from patchpack.tasks.segmentation.predictor import SegmentationPredictor
from patchpack.tasks.segmentation.report import MaskWriter, SegmentationReport
from patchpack.tasks.segmentation.task import build, head_key, prepare, run_evaluator
from patchpack.tasks.task import TaskSpec

SEGMENTATION = TaskSpec(
    name="segmentation",
    config=SegmentationConfig,
    metric=Metric("mean_iou"),
    prepare=prepare,
    build=build,
    head_key=head_key,
    predictor=lambda spec: SegmentationPredictor,
    evaluation=evaluation,
    run_evaluator=run_evaluator,
    report=SegmentationReport(),
    predict=predict,
    predict_options=SegmentationOptions,
    eval_options=SegmentationOptions,
    writer=MaskWriter,
    has_annotations=has_masks,
    annotation_name="masks",
    supports_mosaic=True,
)
