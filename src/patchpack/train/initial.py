"""Weights to begin with: those of another run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from patchpack.checkpoint import CheckpointError, candidates, load_into, load_newest
from patchpack.heads.task import TrunkTask
from patchpack.model.carry import OtherPositions, carry_positions
from patchpack.model.navit import NaViTConfig
from patchpack.model.video import Inflation, VideoConfig, inflate
from patchpack.serial import from_json

TRUNK = "trunk."


def begin_with(
    task: TrunkTask,
    folder: Path,
    continues: Callable[[dict[str, Any]], bool],
    how: Inflation = "central",
) -> bool:
    """Copy a run's best weights into a task: the trunk, and all the rest where that continues it.

    Positions of another length are carried over where that can be (`model.carry`), and patches
    become tubelets (`model.video.inflate`).

    continues  says, of the other model's card, whether its head answers the same question
    how        patches become tubelets

    Says whether all was copied. Raises CheckpointError for a folder without good weights, and for
    weights of another model, naming what does not match.
    """
    checkpoints = folder / "checkpoints"
    if not candidates(checkpoints, "best"):
        raise CheckpointError(f"{folder} holds no weights to begin with: it is not a finished run")
    checkpoint = load_newest(checkpoints, "best")
    tensors, card = checkpoint.tensors["model"], checkpoint.state["card"]
    before = from_json(NaViTConfig | VideoConfig, card["model"])  # pyrefly: ignore
    after = task.trunk.config
    trunk = {n.removeprefix(TRUNK): t for n, t in tensors.items() if n.startswith(TRUNK)}
    try:
        trunk = carry_positions(trunk, before.positions, after.positions)
    except OtherPositions as error:
        raise CheckpointError(
            f"{folder} has other positions than this model: {error}; set model.positions to "
            f"{json.dumps(card['model']['positions'])}"
        ) from error
    trunk = _for_clips(trunk, before, after, how, folder)
    if continues(card):
        rest = {name: t for name, t in tensors.items() if not name.startswith(TRUNK)}
        load_into(task, rest | {TRUNK + name: t for name, t in trunk.items()}, str(folder))
        return True
    load_into(task.trunk, trunk, str(folder))
    try:
        task.adopt(tensors)
    except KeyError as error:
        raise CheckpointError(f"{folder} lacks {error}, which this model needs of it") from error
    return False


def _for_clips(
    trunk: dict[str, Tensor], before: NaViTConfig, after: NaViTConfig, how: Inflation, folder: Path
) -> Mapping[str, Tensor]:
    """A trunk of images as one of clips, where that is what it is to become."""
    if isinstance(before, VideoConfig) and not isinstance(after, VideoConfig):
        raise CheckpointError(f"{folder} takes clips, and this model takes images")
    if isinstance(before, VideoConfig) or not isinstance(after, VideoConfig):
        return trunk
    try:
        return inflate(trunk, after, how)
    except ValueError as error:
        raise CheckpointError(f"{folder} cannot become a model of clips: {error}") from error
