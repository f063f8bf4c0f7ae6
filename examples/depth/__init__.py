"""Monocular depth estimation: the distance of every pixel. An example of a task in one folder.

Copied to `src/patchpack/tasks/depth/`, with one line in `tasks/registry.py` (`DEPTH,` in TASKS and
its import), it trains, loads, evaluates, predicts and reports like the built-in tasks:

    patchpack train manifest.csv task:depth-config        columns path, depth and, if wanted, split
"""

from patchpack.tasks.depth.annotation import has_depth
from patchpack.tasks.depth.evaluator import DepthEvaluator
from patchpack.tasks.depth.model import DepthConfig
from patchpack.tasks.depth.predictor import DepthPredictor
from patchpack.tasks.depth.report import DepthReport, DepthWriter
from patchpack.tasks.depth.task import build, evaluation, predict, prepare

from patchpack.metrics.metric import Metric
from patchpack.tasks.task import TaskSpec

DEPTH = TaskSpec(
    name="depth",
    config=DepthConfig,
    metric=Metric("abs_rel", higher_is_better=False),
    prepare=prepare,
    build=build,
    head_key=lambda spec: "depth",
    predictor=lambda spec: DepthPredictor,
    evaluation=evaluation,
    run_evaluator=lambda run: DepthEvaluator(run.val),
    report=DepthReport(),
    predict=predict,
    writer=DepthWriter,
    has_annotations=has_depth,
    annotation_name="depth maps",
    supports_mosaic=True,
)
