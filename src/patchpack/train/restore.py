"""A `last` checkpoint back into the parts of a run: nothing cast, left out or taken in silence."""

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from patchpack.checkpoint import (
    STATE,
    Checkpoint,
    CheckpointError,
    load_into,
    restore_optimizer,
)
from patchpack.serialization import ConfigError, from_json
from patchpack.train.progress import Progress

COUNTS = (
    "step", "epoch", "pack", "images", "tokens", "flops", "seconds", "best", "best_step",
)  # fmt: skip


def restore_training(
    checkpoint: Checkpoint,
    task: nn.Module,
    average: nn.Module | None,
    optimizers: Mapping[str, Optimizer],
) -> Progress:
    """Restore weights, averaged weights and optimizers; return where the run was.

    Raise CheckpointError, with the file, for a checkpoint of another configuration, and for one
    that lacks or holds anything that no save has written.
    """
    progress = _progress_in(checkpoint)
    files = {"model", *optimizers, *(["average"] if average else [])}
    if unused := sorted(set(checkpoint.tensors) - files):
        raise CheckpointError(f"{checkpoint.path(unused[0])} is of another configuration")
    for module, file in ((task, "model"), (average, "average")):
        if module is not None:
            load_into(module, checkpoint.tensors_of(file), checkpoint.path(file))
    for kind, optimizer in optimizers.items():
        path, tensors = checkpoint.path(kind), checkpoint.tensors_of(kind)
        try:
            restore_optimizer(optimizer, task.named_parameters(), tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}; use another checkpoint") from error
        _check_complete(optimizer, progress.step, path)
    return progress


def _progress_in(checkpoint: Checkpoint) -> Progress:
    path, data = checkpoint.folder / STATE, checkpoint.state.get("progress")
    try:
        progress = from_json(Progress, data)
        if missing := [name for name in COUNTS if name not in checkpoint.state["progress"]]:
            raise ConfigError(f"it lacks {', '.join(missing)}")
    except ConfigError as error:
        raise CheckpointError(f"{path} holds no usable progress: {error}") from error
    if progress.step != checkpoint.step:
        raise CheckpointError(f"{path} is of step {progress.step}, not {checkpoint.step}")
    return progress


def _check_complete(optimizer: Optimizer, step: int, path: str) -> None:
    """Raise CheckpointError where a parameter has no state after steps: all get gradients."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    missing = sum(not optimizer.state.get(parameter) for parameter in parameters)
    if step and missing:
        raise CheckpointError(
            f"{path} lacks the state of {missing} of {len(parameters)} parameters: use another "
            "checkpoint"
        )
