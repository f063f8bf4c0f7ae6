"""Training and evaluating a depth estimator."""

from collections.abc import Sequence
from typing import Any

from patchpack.tasks.depth.annotation import attach_depth
from patchpack.tasks.depth.evaluator import DepthEvaluator
from patchpack.tasks.depth.model import DepthConfig, DepthEstimator
from patchpack.tasks.depth.predictor import DepthImage, DepthPredictor

from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.inference.measure import EvalData
from patchpack.inference.model_spec import ModelSpec
from patchpack.inference.predictor import Unreadable
from patchpack.tasks.task import NoOptions, TaskContext, TaskRun


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """Images with a depth map; raises BadDataset where there is none."""
    index = attach_depth(index)
    return TaskRun(
        train=index.split(context.data.train_split),
        val=index.split(context.data.val_split),
        task=context.task,
    )


def build(spec: ModelSpec) -> DepthEstimator:
    assert isinstance(spec.task, DepthConfig)
    return DepthEstimator(spec.model, spec.task)


def evaluation(
    predictor: DepthPredictor, data: EvalData, options: NoOptions
) -> tuple[DepthEvaluator, list[BadImage]]:
    return DepthEvaluator(attach_depth(data.index)), []


def predict(
    predictor: DepthPredictor,
    images: Sequence[Any],
    options: NoOptions,
    max_tokens: int | None,
    unreadable: Unreadable,
) -> list[DepthImage]:
    return predictor.predict(images, max_tokens=max_tokens, unreadable=unreadable)
