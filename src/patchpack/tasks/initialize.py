"""Weights to begin with: those of another run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from patchpack.checkpoint import CheckpointError, list_checkpoints, load_into, load_newest
from patchpack.model.navit import NaViTConfig
from patchpack.model.position_resize import IncompatiblePositions, resize_positions, resize_time
from patchpack.model.positions import Positions, Rotary
from patchpack.model.video import Inflation, VideoConfig, inflate
from patchpack.serialization import from_json
from patchpack.tasks.backbone_module import BackboneModule

BACKBONE = "backbone."
SAME = (  # what must be the same of two models, for weights to mean the same
    "patch_size", "channels", "dim", "depth", "num_heads", "mlp_dim", "bias", "qk_norm", "norm_eps",
    "activation", "registers", "pooling",
)  # fmt: skip


def initialize_from_run(
    task: BackboneModule,
    folder: Path,
    head_matches: Callable[[dict[str, Any]], bool],
    how: Inflation = "central",
) -> bool:
    """Copy a run's best weights into a task: the trunk, and all the rest where that continues it.

    Positions of another length are carried over where that can be (`model.carry`), and patches
    become tubelets (`model.video.inflate`).

    continues  says, of the other model's card, whether its head answers the same question
    how        patches become tubelets

    Says whether all was copied. Raises CheckpointError for a folder without good weights, and for
    weights of another model, naming what does not match. How pixels are measured may differ: it
    belongs to the data.
    """
    checkpoints = folder / "checkpoints"
    if not list_checkpoints(checkpoints, "best"):
        raise CheckpointError(f"{folder} holds no weights to begin with: it is not a finished run")
    checkpoint = load_newest(checkpoints, "best")
    tensors, spec = checkpoint.tensors["model"], checkpoint.state["model_spec"]
    before = from_json(NaViTConfig | VideoConfig, spec["model"])  # pyrefly: ignore
    after = task.backbone.config
    _check_same(before, after, folder)
    backbone = {n.removeprefix(BACKBONE): t for n, t in tensors.items() if n.startswith(BACKBONE)}
    try:
        backbone = resize_positions(backbone, before.positions, after.positions)
    except IncompatiblePositions as error:
        raise CheckpointError(
            f"{folder} has other positions than this model: {error}; give "
            f"{_options(before.positions)}"
        ) from error
    backbone = _for_clips(backbone, before, after, how, folder)
    if head_matches(spec):
        rest = {name: t for name, t in tensors.items() if not name.startswith(BACKBONE)}
        load_into(task, rest | {BACKBONE + name: t for name, t in backbone.items()}, str(folder))
        return True
    load_into(task.backbone, backbone, str(folder))
    try:
        task.load_text_tower(tensors)
    except KeyError as error:
        raise CheckpointError(f"{folder} lacks {error}, which this model needs of it") from error
    return False


def _check_same(before: NaViTConfig, after: NaViTConfig, folder: Path) -> None:
    """Raise CheckpointError where weights would not fit, or mean something else: with what to
    give, so that they do."""
    if isinstance(before, VideoConfig) and not isinstance(after, VideoConfig):
        raise CheckpointError(f"{folder} takes clips, and this model takes images")
    if isinstance(after, VideoConfig) and isinstance(before.positions, Rotary):
        raise CheckpointError(
            f"{folder} cannot become a model of clips: its positions are rotary, and know no time"
        )
    wrong = {n: getattr(before, n) for n in SAME if getattr(before, n) != getattr(after, n)}
    if wrong:
        there = ", ".join(f"{n} {value}, not {getattr(after, n)}" for n, value in wrong.items())
        options = {f"model.{name}": value for name, value in wrong.items()}
        if isinstance(after, VideoConfig) and "patch_size" in wrong:
            sides = ("model.tubelets.0.height", "model.tubelets.0.width")
            options |= dict.fromkeys(sides, before.patch_size)
        give = " ".join(map(_option, options, options.values()))
        raise CheckpointError(f"{folder} is another model ({there}): give {give}")


def _option(name: str, value: object) -> str:
    """As it is given on the command line."""
    *folders, name = name.replace("_", "-").split(".")
    if isinstance(value, bool):
        name, value = (name, "") if value else (f"no-{name}", "")
    return f"--{'.'.join([*folders, name])} {value}".rstrip()


def _options(positions: Positions) -> str:
    """A kind of positions, as it is given on the command line."""
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(positions).__name__).lower()
    fields = (_option(f"model.positions.{n}", value) for n, value in asdict(positions).items())
    return " ".join([f"model.positions:{kind}", *fields])


def _for_clips(
    backbone: dict[str, Tensor],
    before: NaViTConfig,
    after: NaViTConfig,
    how: Inflation,
    folder: Path,
) -> Mapping[str, Tensor]:
    """A trunk of images as one of clips, where that is what it is to become."""
    if not isinstance(after, VideoConfig):
        return backbone
    if isinstance(before, VideoConfig):
        try:
            return resize_time(backbone, before, after)
        except IncompatiblePositions as error:
            raise CheckpointError(
                f"{folder} tells time otherwise: {error}; give --model.time-table-size {before.time_table_size} "
                f"--model.time-coordinates {before.time_coordinates}"
            ) from error
    try:
        return inflate(backbone, after, how)
    except ValueError as error:
        raise CheckpointError(f"{folder} cannot become a model of clips: {error}") from error
