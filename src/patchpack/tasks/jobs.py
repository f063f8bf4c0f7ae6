"""Which job a config asks for."""

from patchpack.data.index import Index
from patchpack.distributed import World
from patchpack.heads.classification import ClassificationConfig
from patchpack.heads.contrastive import ContrastiveConfig
from patchpack.heads.detection import DetectionConfig
from patchpack.heads.segmentation import SegmentationConfig
from patchpack.tasks.classification import Classification
from patchpack.tasks.contrastive import ContrastivePretraining
from patchpack.tasks.detection import Detection
from patchpack.tasks.job import Job
from patchpack.tasks.segmentation import Segmentation
from patchpack.train.config import RunConfig, Task

JOBS = {
    ClassificationConfig: Classification,
    ContrastiveConfig: ContrastivePretraining,
    DetectionConfig: Detection,
    SegmentationConfig: Segmentation,
}


def prepare(index: Index, config: RunConfig, world: World, *, resumed: bool = False) -> Job:
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
