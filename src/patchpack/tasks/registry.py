"""Which job a config asks for."""

from patchpack.data.index import Index
from patchpack.distributed import World
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.classification.task import Classification
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.tasks.contrastive.task import ContrastivePretraining
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.tasks.detection.task import Detection
from patchpack.tasks.segmentation.model import SegmentationConfig
from patchpack.tasks.segmentation.task import Segmentation
from patchpack.tasks.task import TaskRun
from patchpack.train.config import RunConfig, Task

JOBS = {
    ClassificationConfig: Classification,
    ContrastiveConfig: ContrastivePretraining,
    DetectionConfig: Detection,
    SegmentationConfig: Segmentation,
}


def prepare(index: Index, config: RunConfig, world: World, *, resumed: bool = False) -> TaskRun:
    """The job of a config on these data; raises BadDataset where they do not serve.

    resumed  whether the run's folder holds what the job wrote there
    """
    match config.task:
        case ClassificationConfig() as task:
            return Classification(index, config, task)
        case ContrastiveConfig() as task:
            return ContrastivePretraining(index, config, task, world, resumed)
        case DetectionConfig() as task:
            return Detection(index, config, task, resumed)
        case task:
            return Segmentation(index, config, task)


def metric_of(task: Task) -> str:
    """The figure that decides which weights are best."""
    return JOBS[type(task)].metric
