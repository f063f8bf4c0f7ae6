"""The tasks, and the lookup of one by its config. A new task is one folder, and one line here."""

from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.inference.model_spec import TaskConfig
from patchpack.tasks.classification import CLASSIFICATION
from patchpack.tasks.contrastive import CONTRASTIVE
from patchpack.tasks.detection import DETECTION
from patchpack.tasks.segmentation import SEGMENTATION
from patchpack.tasks.task import TaskContext, TaskRun, TaskSpec

TASKS: tuple[TaskSpec, ...] = (
    CLASSIFICATION,
    CONTRASTIVE,
    DETECTION,
    SEGMENTATION,
)


def task_of(config: TaskConfig) -> TaskSpec:
    """The task of a config."""
    return next(task for task in TASKS if task.config is type(config))


def prepare(index: Index, context: TaskContext) -> TaskRun:
    """A task on the data of a run; raises BadDataset where they do not serve, with the options of
    the tasks that they would serve."""
    task = task_of(context.task)
    if not task.has_annotations(index):
        others = [other for other in TASKS if other.has_annotations(index)]
        hints = [
            f"; to train on its {other.annotation_name}, add {other.option}" for other in others
        ]
        try:
            return task.prepare(index, context)
        except BadDataset as error:
            raise BadDataset(f"{error}{''.join(hints)}") from error
    return task.prepare(index, context)
