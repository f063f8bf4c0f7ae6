"""Which job a config asks for."""

from patchpack.data.index import Index
from patchpack.distributed import World
from patchpack.heads.contrastive import ContrastiveConfig
from patchpack.tasks.classification import Classification
from patchpack.tasks.contrastive import ContrastivePretraining
from patchpack.tasks.job import Job
from patchpack.train.config import RunConfig, Task


def prepare(index: Index, config: RunConfig, world: World, *, resumed: bool = False) -> Job:
    """The job of a config on these data; raises BadDataset where they do not serve.

    resumed  whether the run's folder holds what the job wrote there
    """
    if isinstance(config.task, ContrastiveConfig):
        return ContrastivePretraining(index, config, config.task, world, resumed)
    return Classification(index, config, config.task)


def metric_of(task: Task) -> str:
    """The figure that decides which weights are best."""
    contrastive = isinstance(task, ContrastiveConfig)
    return (ContrastivePretraining if contrastive else Classification).metric
