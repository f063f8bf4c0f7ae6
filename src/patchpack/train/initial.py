"""Weights to begin with: those of another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from patchpack.checkpoint import CheckpointError, candidates, load_into, load_newest

TRUNK = "trunk."


def begin_with(task: nn.Module, folder: Path, continues: Callable[[dict[str, Any]], bool]) -> bool:
    """Copy a run's best weights into a task: the trunk, and all the rest where that continues it.

    continues  says, of the other model's card, whether its head answers the same question

    Says whether all was copied. Raises CheckpointError for a folder without good weights, and for
    weights of another model, naming what does not match.
    """
    checkpoints = folder / "checkpoints"
    if not candidates(checkpoints, "best"):
        raise CheckpointError(f"{folder} holds no weights to begin with: it is not a finished run")
    checkpoint = load_newest(checkpoints, "best")
    tensors = checkpoint.tensors["model"]
    if same := continues(checkpoint.state.get("card", {})):
        load_into(task, tensors, str(folder))
    else:
        trunk = {n.removeprefix(TRUNK): t for n, t in tensors.items() if n.startswith(TRUNK)}
        load_into(task.trunk, trunk, str(folder))  # pyrefly: ignore
    return same
