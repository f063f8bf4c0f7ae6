"""Weights to begin with: those of another run."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from patchpack.checkpoint import CheckpointError, candidates, load_into, load_newest

TRUNK, HEAD = "trunk.", "head."


def begin_with(task: nn.Module, folder: Path, classes: Sequence[str]) -> bool:
    """Copy a run's best weights into a task; the head too where it knows the same classes.

    Says whether the head was copied. Raises CheckpointError for a folder without good weights, and
    for weights of another model, naming what does not match.
    """
    checkpoints = folder / "checkpoints"
    if not candidates(checkpoints, "best"):
        raise CheckpointError(f"{folder} holds no weights to begin with: it is not a finished run")
    checkpoint = load_newest(checkpoints, "best")
    tensors = checkpoint.tensors["model"]
    trunk, head = (
        {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
        for part in (TRUNK, HEAD)
    )
    load_into(task.trunk, trunk, str(folder))  # pyrefly: ignore
    same = checkpoint.state.get("card", {}).get("classes") == list(classes)
    if same:
        load_into(task.head, head, str(folder))  # pyrefly: ignore
    return same
